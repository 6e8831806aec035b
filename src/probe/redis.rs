//! `redis`: does a server that speaks RESP answer a command?

use std::path::PathBuf;

use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::dial::{Address, broken, ended};
use super::expect::{Expect, KEPT};
use super::security::{Security, Tls};
use super::stream::Stream;
use super::{Miss, Probe, Prober, Secret, Setting, Trace, beginning, one_secret, secret, timed};
use crate::host::names::Names;

/// Lists within lists are taken so deep.
const DEPTH: usize = 16;

crate::kind! {
    /// Gives a command to a redis server, or one that speaks its protocol, and judges the answer.
    ///
    /// Each look has a connection of its own. An error is never good. What is judged is the answer as text: a
    /// list as JSON, nothing as `null`.
    pub struct Redis("redis") {
        /// Where: `host:port`.
        address: Address = required,
        /// TLS: `true`, or a table with `ca_file`, `insecure`, `name`, `min_version`, `cert_file` and `key_file`.
        tls: Security = optional,
        /// The user; the server's default one when absent.
        user: String = optional,
        /// The password. Never printed.
        password: Secret = optional,
        /// A file with the password.
        password_file: PathBuf = optional,
        /// The command and its arguments.
        command: Vec<String> = "[\"PING\"]",
        /// What the answer must be: `is`, `contains`, `regex`, `json` (a table of JSON paths and values), `above` and
        /// `below` (of a number).
        expect: Expect = "{}",
    }
}

/// Asks, again and again.
pub struct RedisProber {
    redis: Redis,
    tls: Option<Tls>,
    /// The command that logs in, if any.
    login: Option<Vec<u8>>,
    command: Vec<u8>,
    names: Names,
}

impl Probe for Redis {
    type Prober = RedisProber;
    const EXAMPLE: &'static str = r#"[probe.queue.redis]
address = "127.0.0.1:6379"
command = ["LLEN", "jobs"]
expect  = { below = 1000 }
every   = "1s"
"#;

    fn check(&self) -> Result<(), (String, String)> {
        one_secret(self.password.as_ref(), self.password_file.as_ref())?;
        if self.user.is_some() && self.password.is_none() && self.password_file.is_none() {
            return Err(("`user` is given without a password".to_owned(), "give `password_file`".to_owned()));
        }
        if self.command.is_empty() {
            return Err(("`command` is empty".to_owned(), "write command = [\"PING\"]".to_owned()));
        }
        Ok(())
    }

    fn prober(&self, setting: &Setting) -> Result<RedisProber, String> {
        let password = secret(self.password.as_ref(), self.password_file.as_ref(), "password_file", setting)?;
        let login = password.map(|password| match &self.user {
            Some(user) => written(&["AUTH", user, &password]),
            None => written(&["AUTH", &password]),
        });
        let tls = self.tls.as_ref().map(|security| Tls::new(&self.address.host, security, setting, &[]));
        let command = written(&self.command);
        Ok(RedisProber { redis: self.clone(), tls: tls.transpose()?, login, command, names: setting.names() })
    }

    fn looks_at(&self) -> String {
        format!("{} {}", self.address, self.command.join(" "))
    }
}

impl Prober for RedisProber {
    async fn look(&self, trace: &mut Trace) -> Result<(), Miss> {
        let dialled = self.redis.address.dial(&self.names, trace).await?;
        let peer = dialled.peer;
        let mut stream = match &self.tls {
            Some(tls) => Stream::Tls(Box::new(tls.shake(dialled, trace).await?)),
            None => Stream::Plain(dialled.stream),
        };
        let failed = |why: Failed| match why {
            Failed::Io(why) => broken(peer, &why),
            Failed::Ended { begun } => ended(peer, begun),
            Failed::Odd(said) => Miss::new(format!("the answer of {peer} is not redis's protocol: `{said}`")),
            Failed::TooLong => Miss::new("the answer is longer than 1 MiB"),
        };
        if let Some(login) = &self.login {
            let reply = timed(&mut trace.login, ask(&mut stream, login)).await.map_err(failed)?;
            if let Reply::Error(why) = reply {
                return Err(Miss::new(format!("the login is refused: `{}`", beginning(why.as_bytes()))));
            }
        }
        let reply = timed(&mut trace.first_byte, ask(&mut stream, &self.command)).await.map_err(failed)?;
        let answer = match reply {
            Reply::Error(why) => {
                return Err(Miss::new(format!("the answer is an error: `{}`", beginning(why.as_bytes()))));
            }
            Reply::Value(Json::String(text)) => text,
            Reply::Value(other) => other.to_string(),
        };
        self.redis
            .expect
            .wrong("the answer", answer.as_bytes(), trace)
            .map_or(Ok(()), |why| Err(Miss::new(why)))
    }
}

/// A command as it is sent: a list of strings.
fn written(words: &[impl AsRef<str>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        let word = word.as_ref();
        bytes.extend(format!("${}\r\n{word}\r\n", word.len()).bytes());
    }
    bytes
}

/// What a server says.
#[derive(Debug, PartialEq)]
enum Reply {
    Value(Json),
    Error(String),
}

/// Why there is no reply.
enum Failed {
    Io(std::io::Error),
    Ended { begun: bool },
    Odd(String),
    TooLong,
}

async fn ask(stream: &mut Stream, command: &[u8]) -> Result<Reply, Failed> {
    stream.write_all(command).await.map_err(Failed::Io)?;
    let mut heard = Vec::new();
    loop {
        if heard.len() > KEPT {
            return Err(Failed::TooLong);
        }
        if let Some((reply, _)) = reply(&heard, DEPTH).map_err(|Odd| Failed::Odd(beginning(&heard)))? {
            return Ok(reply);
        }
        match stream.read_buf(&mut heard).await {
            Ok(0) => return Err(Failed::Ended { begun: !heard.is_empty() }),
            Ok(_) => {}
            Err(why) => return Err(Failed::Io(why)),
        }
    }
}

/// What no server of this protocol says.
#[derive(Debug, PartialEq)]
struct Odd;

/// The reply at the beginning of what was heard, and what is left; `None` while it is not whole. RESP2, in which
/// a server answers whoever does not ask for another (redis.io, "RESP protocol spec").
fn reply(heard: &[u8], depth: usize) -> Result<Option<(Reply, &[u8])>, Odd> {
    let Some((kind, rest)) = heard.split_first() else { return Ok(None) };
    if !b"+-:$*".contains(kind) || depth == 0 {
        return Err(Odd);
    }
    let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
    let line = String::from_utf8_lossy(&rest[..end]).into_owned();
    let mut rest = &rest[end + 2..];
    let number = || line.parse::<i64>().map_err(|_| Odd);
    let value = match kind {
        b'+' => json!(line),
        b'-' => return Ok(Some((Reply::Error(line), rest))),
        b':' => json!(number()?),
        _ if number()? < 0 => Json::Null,
        b'$' => {
            let length = usize::try_from(number()?).map_err(|_| Odd)?;
            let Some(whole) = length.checked_add(2) else { return Err(Odd) };
            let Some(bytes) = rest.get(..whole) else { return Ok(None) };
            rest = &rest[whole..];
            json!(String::from_utf8_lossy(&bytes[..length]))
        }
        _ => {
            let mut values = Vec::new();
            for _ in 0..number()? {
                let Some((value, left)) = reply(rest, depth - 1)? else { return Ok(None) };
                rest = left;
                values.push(match value {
                    Reply::Value(value) => value,
                    Reply::Error(why) => json!({"error": why}),
                });
            }
            Json::Array(values)
        }
    };
    Ok(Some((Reply::Value(value), rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read_whole_or_not_yet_or_refused() {
        for (heard, value) in [
            ("+PONG\r\n", json!("PONG")),
            (":42\r\n", json!(42)),
            ("$3\r\na\r\n\r\n", json!("a\r\n")),
            ("$-1\r\n", Json::Null),
            ("*-1\r\n", Json::Null),
            ("*0\r\n", json!([])),
            ("*3\r\n$1\r\na\r\n:1\r\n*1\r\n-ERR x\r\n", json!(["a", 1, [{"error": "ERR x"}]])),
        ] {
            let (read, left) = reply(heard.as_bytes(), DEPTH).unwrap().unwrap();
            assert_eq!((read, left), (Reply::Value(value), &b""[..]));
            for cut in 0..heard.len() {
                assert_eq!(reply(&heard.as_bytes()[..cut], DEPTH), Ok(None), "{heard:?} {cut}");
            }
        }
        assert_eq!(reply(b"-ERR no\r\n", DEPTH), Ok(Some((Reply::Error("ERR no".to_owned()), &b""[..]))));
        for odd in ["HTTP/1.1 200 OK", "$x\r\n", ":\r\n", "$9223372036854775807\r\n", &"*1\r\n".repeat(99)] {
            assert!(matches!(reply(odd.as_bytes(), DEPTH), Err(Odd) | Ok(None)), "{odd}");
        }
        assert_eq!(reply("*1\r\n".repeat(99).as_bytes(), DEPTH), Err(Odd));
    }
}
