//! `mysql`: does a database let us in and answer a query?

use std::io;
use std::path::PathBuf;

use sha1::{Digest, Sha1};
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};

use super::database::{Failed, judge};
use super::dial::{Address, broken};
use super::expect::Expect;
use super::security::{Security, Tls};
use super::stream::Stream;
use super::{Miss, Probe, Prober, Secret, Setting, Trace, beginning, one_secret, secret, timed};
use crate::host::names::Names;

/// A packet that is as long goes on in the next ("MySQL Packets" in the documentation of the protocol).
const LONGEST: usize = 0xff_ffff;

/// What we can ("Capability Flags"): a database at the login, the protocol since 4.1, TLS, hashed passwords, ways to log in
/// by name.
const CAN: u32 = WITH_DATABASE | PROTOCOL_41 | SECURE_CONNECTION | PLUGIN_AUTH;
const WITH_DATABASE: u32 = 0x8;
const PROTOCOL_41: u32 = 0x200;
const TLS: u32 = 0x800;
const SECURE_CONNECTION: u32 = 0x8000;
const PLUGIN_AUTH: u32 = 0x8_0000;
/// utf8mb4_general_ci, which MariaDB and MySQL know by this number.
const UTF8: u8 = 45;

crate::kind! {
    /// Asks a MySQL or MariaDB database, or what speaks their protocol, and judges the answer.
    ///
    /// Each look has a connection of its own. What is judged is the first column of the first row, as text; NULL there
    /// is `null`, and no row is an empty answer. A query that outlives its look may go on in the server until it is
    /// done: give the account a limit (`max_statement_time`, `max_execution_time`).
    pub struct Mysql("mysql") {
        /// Where: `host:port`.
        address: Address = required,
        /// TLS: `true`, or a table with `ca_file`, `insecure`, `name`, `min_version`, `cert_file` and `key_file`. Without
        /// it nothing is secured.
        tls: Security = optional,
        /// The account.
        user: String = required,
        /// The password, for accounts with `mysql_native_password` or `caching_sha2_password`; over TLS also for those that
        /// want it in the clear. Never printed.
        password: Secret = optional,
        /// A file with the password.
        password_file: PathBuf = optional,
        /// The database; none when absent.
        database: String = optional,
        /// What is asked.
        query: String = "SELECT 1",
        /// What the answer must be: `is`, `contains`, `regex`, `json` (a table of JSON paths and values), `above` and
        /// `below` (of a number).
        expect: Expect = "{}",
    }
}

/// Asks, again and again.
pub struct MysqlProber {
    mysql: Mysql,
    password: String,
    tls: Option<Tls>,
    names: Names,
}

impl Probe for Mysql {
    type Prober = MysqlProber;
    const EXAMPLE: &'static str = r#"[probe.replica.mysql]
address       = "127.0.0.1:3306"
user          = "monitor"
password_file = "/etc/brownout/monitor"
database      = "shop"
query         = "SELECT timestampdiff(SECOND, max(at), now()) FROM beats"
expect        = { below = "5s" }
every         = "1s"
"#;

    fn check(&self) -> Result<(), (String, String)> {
        if [Some(&self.user), self.database.as_ref()].into_iter().flatten().any(|text| text.contains('\0')) {
            return Err(("a NUL cannot be sent".to_owned(), "leave it out".to_owned()));
        }
        if self.query.len() >= LONGEST {
            return Err(("the query is longer than 16 MiB".to_owned(), "make it shorter".to_owned()));
        }
        one_secret(self.password.as_ref(), self.password_file.as_ref())
    }

    fn prober(&self, setting: &Setting) -> Result<MysqlProber, String> {
        let password = secret(self.password.as_ref(), self.password_file.as_ref(), "password_file", setting)?;
        let tls = self.tls.as_ref().map(|security| Tls::new(&self.address.host, security, setting, &[]));
        Ok(MysqlProber {
            mysql: self.clone(),
            password: password.unwrap_or_default(),
            tls: tls.transpose()?,
            names: setting.names(),
        })
    }

    fn looks_at(&self) -> String {
        format!("{} {}", self.address, self.query)
    }
}

impl Prober for MysqlProber {
    async fn look(&self, trace: &mut Trace) -> Result<(), Miss> {
        let mut dialled = self.mysql.address.dial(&self.names, trace).await?;
        let peer = dialled.peer;
        let failed = |doing, why: Failed| why.miss(doing, peer, "MySQL");
        let part = if self.tls.is_some() { &mut trace.greeting } else { &mut trace.login };
        let greeted = timed(part, Greeting::hear(&mut dialled.stream)).await;
        let greeting = greeted.map_err(|why| failed("connection", why))?;
        trace.note("server", || beginning(greeting.version.as_bytes()));
        // Said twice where TLS begins, and must be the same both times.
        let mut with = CAN & (greeting.can | WITH_DATABASE);
        if self.mysql.database.is_none() {
            with &= !WITH_DATABASE;
        }
        if self.tls.is_some() {
            with |= TLS;
        }
        let mut last = greeting.number;
        let stream = match &self.tls {
            Some(_) if greeting.can & TLS == 0 => {
                return Err(Miss::new(format!("{peer} does not offer TLS")));
            }
            Some(tls) => {
                last = last.wrapping_add(1);
                let asking = packet(last, &head(with));
                dialled.stream.write_all(&asking).await.map_err(|why| broken(peer, &why))?;
                Stream::Tls(Box::new(tls.shake(dialled, trace).await?))
            }
            None => Stream::Plain(dialled.stream),
        };
        let mut session = Session { stream: BufReader::new(stream), last, secured: self.tls.is_some(), with };
        let login = session.log_in(&self.mysql, &self.password, greeting);
        timed(&mut trace.login, login).await.map_err(|why| failed("login", why))?;
        let asking = session.ask(&self.mysql.query);
        let (answer, rows) =
            timed(&mut trace.first_byte, asking).await.map_err(|why| failed("query", why))?;
        judge(&self.mysql.expect, &answer, rows, trace)
    }
}

fn cut_short() -> Failed {
    Failed::Odd("a message that is cut short".to_owned())
}

/// What a server begins with ("Protocol::HandshakeV10").
struct Greeting {
    /// The number of its packet.
    number: u8,
    version: String,
    can: u32,
    /// What hashes of a password are made with.
    salt: Vec<u8>,
    /// How it would like us to log in.
    way: String,
}

impl Greeting {
    async fn hear(stream: &mut (impl AsyncRead + Unpin)) -> Result<Self, Failed> {
        let mut begun = [0; 4];
        stream.read_exact(&mut begun).await?;
        // The first packet of a server has the number 0: what speaks another protocol would be waited for.
        if begun[3] != 0 {
            return Err(Failed::Odd(format!("it begins `{}`", beginning(&begun))));
        }
        let said = rest(stream, begun).await?;
        if said.first() == Some(&0xff) {
            return Err(refused(&said));
        }
        let mut words = Words(&said);
        if words.byte()? != 10 {
            return Err(Failed::Odd(format!("it begins `{}`", beginning(&said))));
        }
        let version = words.text()?;
        words.take(4)?; // The number of this connection.
        let mut salt = words.take(8)?.to_vec();
        words.take(1)?;
        let low = words.take(2)?;
        words.take(3)?; // The character set, and the status.
        let high = words.take(2)?;
        let can = u32::from_le_bytes([low[0], low[1], high[0], high[1]]);
        let salted = usize::from(words.byte()?);
        words.take(10)?;
        let more = words.take(salted.saturating_sub(8).max(13).min(words.0.len()))?;
        salt.extend_from_slice(more.strip_suffix(b"\0").unwrap_or(more));
        let way = if can & PLUGIN_AUTH == 0 { NATIVE.to_owned() } else { words.text()? };
        if can & PROTOCOL_41 == 0 {
            return Err(Failed::Refused("the server is older than MySQL 4.1".to_owned()));
        }
        Ok(Self { number: begun[3], version, can, salt, way })
    }
}

const NATIVE: &str = "mysql_native_password";
const CACHING: &str = "caching_sha2_password";
const CLEAR: &str = "mysql_clear_password";

/// The beginning of an answer to a greeting, after which TLS may begin.
fn head(can: u32) -> Vec<u8> {
    let mut words = can.to_le_bytes().to_vec();
    words.extend_from_slice(&(LONGEST as u32).to_le_bytes());
    words.push(UTF8);
    words.extend_from_slice(&[0; 23]);
    words
}

struct Session {
    stream: BufReader<Stream>,
    /// The number of the last packet.
    last: u8,
    secured: bool,
    /// What we said that we can.
    with: u32,
}

impl Session {
    /// Says who we are, until the server is ready to be asked ("Protocol::HandshakeResponse41").
    async fn log_in(&mut self, asked: &Mysql, password: &str, greeting: Greeting) -> Result<(), Failed> {
        let Greeting { mut salt, mut way, .. } = greeting;
        let proof = match way.as_str() {
            NATIVE | CACHING => self.proof(&way, password, &salt)?,
            // It is the server's turn to ask for another way for this account, or for this one again.
            _ => Vec::new(),
        };
        let mut words = head(self.with);
        words.extend_from_slice(asked.user.as_bytes());
        words.push(0);
        words.push(proof.len() as u8); // At most 32 bytes.
        words.extend_from_slice(&proof);
        if let Some(database) = &asked.database {
            words.extend_from_slice(database.as_bytes());
            words.push(0);
        }
        words.extend_from_slice(way.as_bytes());
        words.push(0);
        self.say(&words).await?;
        loop {
            let said = self.hear().await?;
            match said.as_slice() {
                [0, ..] => return Ok(()),
                [0xff, ..] => return Err(refused(&said)),
                // "Protocol::AuthSwitchRequest".
                [0xfe, other @ ..] if !other.is_empty() => {
                    let mut words = Words(other);
                    way = words.text()?;
                    salt = words.0.strip_suffix(b"\0").unwrap_or(words.0).to_vec();
                    let proof = self.proof(&way, password, &salt)?;
                    self.say(&proof).await?;
                }
                // "Caching_sha2_password information": it has our hash, or wants the password itself.
                [1, 3] if way == CACHING => {}
                [1, 4] if way == CACHING => {
                    if !self.secured {
                        let why =
                            "the server wants the password itself, which we say over TLS only: give `tls`";
                        return Err(Failed::Refused(why.to_owned()));
                    }
                    self.say(&[password.as_bytes(), b"\0"].concat()).await?;
                }
                _ => return Err(Failed::Odd("a message out of turn".to_owned())),
            }
        }
    }

    /// What proves that we know the password.
    fn proof(&self, way: &str, password: &str, salt: &[u8]) -> Result<Vec<u8>, Failed> {
        match way {
            NATIVE | CACHING if password.is_empty() => Ok(Vec::new()),
            NATIVE => Ok(native(password.as_bytes(), salt)),
            CACHING => Ok(caching(password.as_bytes(), salt)),
            CLEAR if self.secured => Ok([password.as_bytes(), b"\0"].concat()),
            CLEAR => {
                let why =
                    "the server wants the password in the clear, which we say over TLS only: give `tls`";
                Err(Failed::Refused(why.to_owned()))
            }
            _ => Err(Failed::Refused(format!(
                "the server asks for {}, which we cannot: give the account {NATIVE} or {CACHING}",
                beginning(way.as_bytes())
            ))),
        }
    }

    /// Asks: the first column of the first row, and how many rows there are ("COM_QUERY").
    async fn ask(&mut self, query: &str) -> Result<(Vec<u8>, u64), Failed> {
        self.last = u8::MAX; // A command begins anew, with packet 0.
        self.say(&[b"\x03", query.as_bytes()].concat()).await?;
        let said = self.hear().await?;
        let columns = match said.first() {
            Some(0) => return Ok((Vec::new(), 0)),
            Some(0xff) => return Err(refused(&said)),
            Some(0xfb) => {
                return Err(Failed::Refused(
                    "the server asks for a file of ours, which is no answer".to_owned(),
                ));
            }
            _ => Words(&said).length()?.ok_or_else(cut_short)?,
        };
        for _ in 0..columns {
            self.hear().await?;
        }
        if !ends(&self.hear().await?) {
            return Err(Failed::Odd("a message out of turn".to_owned()));
        }
        let (mut first, mut rows) = (None, 0);
        loop {
            let said = self.hear().await?;
            if ends(&said) {
                break;
            }
            if said.first() == Some(&0xff) {
                return Err(refused(&said));
            }
            rows += 1;
            if first.is_none() {
                let mut words = Words(&said);
                first = Some(match words.length()? {
                    Some(length) => words.take(usize::try_from(length).unwrap_or(usize::MAX))?.to_vec(),
                    None => b"null".to_vec(),
                });
            }
        }
        self.last = u8::MAX;
        self.say(b"\x01").await?; // "COM_QUIT".
        Ok((first.unwrap_or_default(), rows))
    }

    async fn say(&mut self, words: &[u8]) -> Result<(), Failed> {
        self.last = self.last.wrapping_add(1);
        self.stream.write_all(&packet(self.last, words)).await?;
        Ok(self.stream.flush().await?)
    }

    /// The next message.
    async fn hear(&mut self) -> Result<Vec<u8>, Failed> {
        let mut begun = [0; 4];
        self.stream.read_exact(&mut begun).await?;
        self.last = begun[3];
        rest(&mut self.stream, begun).await
    }
}

/// A message of ours, which is short.
fn packet(number: u8, words: &[u8]) -> Vec<u8> {
    let length = (words.len() as u32).to_le_bytes();
    [&length[..3], &[number], words].concat()
}

/// The rest of a message that began so. Room is made for what comes, not for what is promised.
async fn rest(stream: &mut (impl AsyncRead + Unpin), [a, b, c, _]: [u8; 4]) -> Result<Vec<u8>, Failed> {
    let length = u32::from_le_bytes([a, b, c, 0]) as usize;
    if length == LONGEST {
        return Err(Failed::Odd("a message longer than 16 MiB".to_owned()));
    }
    let mut said = Vec::new();
    stream.take(length as u64).read_to_end(&mut said).await?;
    if said.len() < length {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(said)
}

/// Whether a message ends columns or rows ("EOF_Packet"): a row that begins alike is longer.
fn ends(said: &[u8]) -> bool {
    said.first() == Some(&0xfe) && said.len() < 9
}

/// The server's own words: its message, and the code that its documentation lists ("ERR_Packet").
fn refused(said: &[u8]) -> Failed {
    let code = said.get(1..3).map_or(0, |code| u16::from_le_bytes([code[0], code[1]]));
    let message = said.get(3..).unwrap_or_default();
    // A state of SQL stands before it, once the server knows how new we are.
    let message = if message.first() == Some(&b'#') { message.get(6..).unwrap_or_default() } else { message };
    Failed::Refused(format!("`{}` ({code})", beginning(message)))
}

/// A message that is read from its beginning.
struct Words<'a>(&'a [u8]);

impl<'a> Words<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Failed> {
        let (taken, left) = self.0.split_at_checked(length).ok_or_else(cut_short)?;
        self.0 = left;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Failed> {
        self.take(1).map(|byte| byte[0])
    }

    /// A text that a NUL ends, or the message.
    fn text(&mut self) -> Result<String, Failed> {
        let length = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.0 = self.0.get(1..).unwrap_or_default();
        Ok(text)
    }

    /// A length that takes as many bytes as it needs; `None` is no value at all ("Protocol::LengthEncodedInteger").
    fn length(&mut self) -> Result<Option<u64>, Failed> {
        let bytes = match self.byte()? {
            0xfb => return Ok(None),
            0xfc => 2,
            0xfd => 3,
            0xfe => 8,
            0xff => return Err(cut_short()),
            short => return Ok(Some(u64::from(short))),
        };
        let taken = self.take(bytes)?;
        Ok(Some(taken.iter().rev().fold(0, |length, byte| length << 8 | u64::from(*byte))))
    }
}

/// SHA1(password) XOR SHA1(salt, SHA1(SHA1(password))) ("Secure Password Authentication").
fn native(password: &[u8], salt: &[u8]) -> Vec<u8> {
    let once = Sha1::digest(password);
    let hash = Sha1::new().chain_update(salt).chain_update(Sha1::digest(once)).finalize();
    once.iter().zip(hash).map(|(one, other)| one ^ other).collect()
}

/// SHA256(password) XOR SHA256(SHA256(SHA256(password)), salt) ("Caching_sha2_password information").
fn caching(password: &[u8], salt: &[u8]) -> Vec<u8> {
    let once = Sha256::digest(password);
    let hash = Sha256::new().chain_update(Sha256::digest(once)).chain_update(salt).finalize();
    once.iter().zip(hash).map(|(one, other)| one ^ other).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: &[u8] = b"12345678901234567890";

    /// What a server of `caching_sha2_password` does with a proof, which knows SHA256(SHA256(password)) alone.
    #[test]
    fn a_server_that_knows_a_hash_of_the_password_believes_the_proof() {
        let known = Sha256::digest(Sha256::digest(b"open sesame"));
        let hash = Sha256::new().chain_update(known).chain_update(SALT).finalize();
        let once: Vec<u8> =
            caching(b"open sesame", SALT).iter().zip(hash).map(|(one, other)| one ^ other).collect();
        assert_eq!(Sha256::digest(once), known);
        let known = Sha1::digest(Sha1::digest(b"open sesame"));
        let hash = Sha1::new().chain_update(SALT).chain_update(known).finalize();
        let once: Vec<u8> =
            native(b"open sesame", SALT).iter().zip(hash).map(|(one, other)| one ^ other).collect();
        assert_eq!(Sha1::digest(once), known);
    }

    #[test]
    fn lengths_take_as_many_bytes_as_they_need() {
        for (bytes, length) in [
            (&b"\x05"[..], Some(5)),
            (b"\xfb", None),
            (b"\xfc\x00\x01", Some(256)),
            (b"\xfd\x01\x00\x01", Some(65537)),
            (b"\xfe\x01\x00\x00\x00\x00\x00\x00\x80", Some(0x8000_0000_0000_0001)),
        ] {
            assert_eq!(Words(bytes).length().ok(), Some(length));
        }
        for short in [&b""[..], b"\xfc\x00", b"\xfd\x00\x00", b"\xfe", b"\xff"] {
            assert!(Words(short).length().is_err());
        }
        assert!(Words(b"ab").take(3).is_err() && Words(b"ab").take(usize::MAX).is_err());
    }
}
