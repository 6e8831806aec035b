//! `postgres`: does a database let us in and answer a query?

use std::io;
use std::path::PathBuf;

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::{DataRowBody, ErrorResponseBody, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::database::{Failed, judge};
use super::dial::Address;
use super::expect::Expect;
use super::security::{Security, Tls};
use super::starttls::Before;
use super::stream::Stream;
use super::{Miss, Probe, Prober, Secret, Setting, Trace, beginning, one_secret, secret, timed};
use crate::host::names::Names;

/// A longer message is not taken.
const LONGEST: u32 = 16 * 1024 * 1024;

crate::kind! {
    /// Asks a PostgreSQL database, or what speaks its protocol, and judges the answer.
    ///
    /// Each look has a connection of its own. What is judged is the first column of the first row, as text; nothing
    /// there is `null`, and no row is an empty answer. A query that outlives its look goes on in the server until it
    /// is done: give the role a `statement_timeout`.
    pub struct Postgres("postgres") {
        /// Where: `host:port`.
        address: Address = required,
        /// TLS: `true`, or a table with `ca_file`, `insecure`, `name`, `min_version`, `cert_file` and `key_file`. Without
        /// it nothing is secured.
        tls: Security = optional,
        /// The role.
        user: String = "postgres",
        /// The password, for servers that ask for it in the clear, by MD5 or by SCRAM-SHA-256. Never printed.
        password: Secret = optional,
        /// A file with the password.
        password_file: PathBuf = optional,
        /// The database; that of the role's name when absent.
        database: String = optional,
        /// What is asked.
        query: String = "SELECT 1",
        /// What the answer must be: `is`, `contains`, `regex`, `json` (a table of JSON paths and values), `above` and
        /// `below` (of a number).
        expect: Expect = "{}",
    }
}

/// Asks, again and again.
pub struct PostgresProber {
    postgres: Postgres,
    password: Option<String>,
    tls: Option<Tls>,
    names: Names,
}

impl Probe for Postgres {
    type Prober = PostgresProber;
    const EXAMPLE: &'static str = r#"[probe.replica.postgres]
address       = "127.0.0.1:5432"
user          = "monitor"
password_file = "/etc/brownout/monitor"
database      = "shop"
query         = "SELECT extract(epoch FROM now() - max(at)) FROM beats"
expect        = { below = "5s" }
every         = "1s"
"#;

    fn check(&self) -> Result<(), (String, String)> {
        let texts = [Some(&self.user), self.database.as_ref(), Some(&self.query)];
        if texts.into_iter().flatten().any(|text| text.contains('\0')) {
            return Err(("a NUL cannot be sent".to_owned(), "leave it out".to_owned()));
        }
        one_secret(self.password.as_ref(), self.password_file.as_ref())
    }

    fn prober(&self, setting: &Setting) -> Result<PostgresProber, String> {
        let password = secret(self.password.as_ref(), self.password_file.as_ref(), "password_file", setting)?;
        let tls = self
            .tls
            .as_ref()
            .map(|security| Tls::new(&self.address.host, security, setting, &["postgresql"]));
        Ok(PostgresProber { postgres: self.clone(), password, tls: tls.transpose()?, names: setting.names() })
    }

    fn looks_at(&self) -> String {
        format!("{} {}", self.address, self.query)
    }
}

impl Prober for PostgresProber {
    async fn look(&self, trace: &mut Trace) -> Result<(), Miss> {
        let mut dialled = self.postgres.address.dial(&self.names, trace).await?;
        let peer = dialled.peer;
        let stream = match &self.tls {
            Some(tls) => {
                timed(&mut trace.greeting, Before::Postgres.agree(&mut dialled)).await?;
                Stream::Tls(Box::new(tls.shake(dialled, trace).await?))
            }
            None => Stream::Plain(dialled.stream),
        };
        let mut session = Session { stream, heard: BytesMut::with_capacity(8192) };
        let failed = |doing, why: Failed| why.miss(doing, peer, "PostgreSQL");
        let login = session.log_in(&self.postgres, self.password.as_deref());
        timed(&mut trace.login, login).await.map_err(|why| failed("login", why))?;
        let asking = session.ask(&self.postgres.query);
        let (answer, rows) =
            timed(&mut trace.first_byte, asking).await.map_err(|why| failed("query", why))?;
        judge(&self.postgres.expect, &answer, rows, trace)
    }
}

struct Session {
    stream: Stream,
    heard: BytesMut,
}

impl Session {
    /// Says who we are, until the server is ready to be asked.
    async fn log_in(&mut self, asked: &Postgres, password: Option<&str>) -> Result<(), Failed> {
        let database = asked.database.as_deref().unwrap_or(&asked.user);
        let parameters = [
            ("client_encoding", "UTF8"),
            ("user", &asked.user),
            ("database", database),
            ("application_name", "brownout"),
        ];
        self.say(|words| frontend::startup_message(parameters, words)).await?;
        let secret = || password.ok_or_else(|| Failed::Refused("the server asks for a password".to_owned()));
        let mut scram = None;
        loop {
            match self.hear().await? {
                Message::AuthenticationCleartextPassword => {
                    let secret = secret()?;
                    self.say(|words| frontend::password_message(secret.as_bytes(), words)).await?;
                }
                Message::AuthenticationMd5Password(body) => {
                    let hash = md5_hash(asked.user.as_bytes(), secret()?.as_bytes(), body.salt());
                    self.say(|words| frontend::password_message(hash.as_bytes(), words)).await?;
                }
                Message::AuthenticationSasl(body) => {
                    let offered: Vec<&str> = body.mechanisms().collect().map_err(|why| odd(&why))?;
                    if !offered.contains(&SCRAM_SHA_256) {
                        let offered = offered.join(", ");
                        return Err(Failed::Refused(format!(
                            "the server asks for {offered}, which we cannot"
                        )));
                    }
                    let ours = ScramSha256::new(secret()?.as_bytes(), ChannelBinding::unsupported());
                    let ours = scram.insert(ours);
                    self.say(|words| frontend::sasl_initial_response(SCRAM_SHA_256, ours.message(), words))
                        .await?;
                }
                Message::AuthenticationSaslContinue(body) => {
                    let ours = scram.as_mut().ok_or_else(out_of_turn)?;
                    ours.update(body.data()).map_err(|why| odd(&why))?;
                    self.say(|words| frontend::sasl_response(ours.message(), words)).await?;
                }
                Message::AuthenticationSaslFinal(body) => {
                    // Here the server proves that it knows the password, too.
                    scram.as_mut().ok_or_else(out_of_turn)?.finish(body.data()).map_err(|why| odd(&why))?;
                }
                Message::AuthenticationGss
                | Message::AuthenticationKerberosV5
                | Message::AuthenticationScmCredential
                | Message::AuthenticationSspi => {
                    let why = "the server asks for a way to log in that we cannot";
                    return Err(Failed::Refused(why.to_owned()));
                }
                Message::ErrorResponse(body) => return Err(refused(&body)),
                Message::ReadyForQuery(_) => return Ok(()),
                Message::AuthenticationOk
                | Message::BackendKeyData(_)
                | Message::ParameterStatus(_)
                | Message::NoticeResponse(_) => {}
                _ => return Err(out_of_turn()),
            }
        }
    }

    /// Asks: the first column of the first row, and how many rows there are.
    async fn ask(&mut self, query: &str) -> Result<(Vec<u8>, u64), Failed> {
        self.say(|words| frontend::query(query, words)).await?;
        let (mut first, mut rows, mut wrong) = (None, 0, None);
        loop {
            match self.hear().await? {
                Message::DataRow(row) => {
                    rows += 1;
                    if first.is_none() {
                        first = Some(first_column(&row).map_err(|why| odd(&why))?);
                    }
                }
                Message::ErrorResponse(body) => wrong = Some(refused(&body)),
                Message::ReadyForQuery(_) => {
                    self.say(|words| {
                        frontend::terminate(words);
                        Ok(())
                    })
                    .await?;
                    return wrong.map_or_else(|| Ok((first.unwrap_or_default(), rows)), Err);
                }
                Message::CopyInResponse(_) => {
                    return Err(Failed::Refused("a COPY from us is no question".to_owned()));
                }
                _ => {}
            }
        }
    }

    async fn say(&mut self, write: impl FnOnce(&mut BytesMut) -> io::Result<()>) -> Result<(), Failed> {
        let mut words = BytesMut::new();
        write(&mut words)?;
        Ok(self.stream.write_all(&words).await?)
    }

    /// The next message.
    async fn hear(&mut self) -> Result<Message, Failed> {
        loop {
            // Looked at before the library makes room for so much.
            if let Some(length) = self.heard.get(1..5).and_then(|bytes| bytes.try_into().ok())
                && u32::from_be_bytes(length) > LONGEST
            {
                // Words of another protocol have a length too large, and letters where the length stands.
                let words = self.heard.iter().take(5).all(|byte| byte.is_ascii_graphic() || *byte == b' ');
                return Err(Failed::Odd(if words {
                    format!("it begins `{}`", beginning(&self.heard))
                } else {
                    "a message longer than 16 MiB".to_owned()
                }));
            }
            if let Some(message) = Message::parse(&mut self.heard).map_err(|why| odd(&why))? {
                return Ok(message);
            }
            if self.stream.read_buf(&mut self.heard).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }
}

fn odd(why: &io::Error) -> Failed {
    Failed::Odd(why.to_string())
}

fn out_of_turn() -> Failed {
    Failed::Odd("a message out of turn".to_owned())
}

fn first_column(row: &DataRowBody) -> io::Result<Vec<u8>> {
    Ok(match row.ranges().next()? {
        Some(Some(range)) => row.buffer().get(range).unwrap_or_default().to_vec(),
        Some(None) | None => b"null".to_vec(),
    })
}

/// The server's own words: its message, and the code that its documentation lists.
fn refused(body: &ErrorResponseBody) -> Failed {
    let (mut message, mut code) = (String::new(), String::new());
    let mut fields = body.fields();
    while let Ok(Some(field)) = fields.next() {
        match field.type_() {
            b'M' => message = beginning(field.value_bytes()),
            b'C' => code = beginning(field.value_bytes()),
            _ => {}
        }
    }
    Failed::Refused(format!("`{message}` ({code})"))
}
