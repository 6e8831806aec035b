//! `tcp`: does a port accept a connection, and say what it should?

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::dial::{Address, Dialled, broken};
use super::expect::Pattern;
use super::payload::Payload;
use super::security::{Security, Tls};
use super::stream::Stream;
use super::{Miss, Probe, Prober, Setting, Trace, beginning, timed};
use crate::host::names::Names;

/// So much of what is said is read while looking for what is expected.
const HEARD: usize = 64 * 1024;

crate::kind! {
    /// Connects to a TCP port and closes.
    ///
    /// With `send` and `expect` it also says something, and waits until the answer contains what is
    /// expected. With `script` it holds a whole conversation.
    pub struct Tcp("tcp") {
        /// Where: `host:port`.
        address: Address = required,
        /// TLS from the beginning: `true`, or a table with `ca_file`, `insecure`, `name`, `min_version`, `cert_file` and
        /// `key_file`.
        tls: Security = optional,
        /// Sent once connected, for example `"PING\r\n"`, or `{ hex = "00 ff" }`.
        send: Payload = optional,
        /// What the answer must contain, within its first 64 KiB, for example `"PONG"`.
        expect: String = optional,
        /// A conversation, step by step: `{ send = ... }`, `{ expect = ... }`, which waits for a text,
        /// `{ regex = ... }`, which waits for a match, and `{ tls = ... }`, from where on it is secured. What is waited
        /// for is looked for after what was found before.
        script: Vec<Step> = "[]",
    }
}

crate::kind! {
    /// One step of a conversation.
    pub struct Step("step") {
        /// What is said.
        send: Payload = optional,
        /// A text that is waited for.
        expect: String = optional,
        /// A regular expression that is waited for.
        regex: Pattern = optional,
        /// TLS begins.
        tls: Security = optional,
    }
}

crate::table!(Step, "a step");

/// What is done next.
enum Turn {
    Send(Vec<u8>),
    /// What is waited for, and what was not done when it does not come: `does not contain` what.
    Await(Pattern, &'static str, String),
    Secure(Box<Tls>),
}

/// Connects, again and again.
pub struct TcpProber {
    address: Address,
    turns: Vec<Turn>,
    names: Names,
}

impl Step {
    fn given(&self) -> usize {
        [self.send.is_some(), self.expect.is_some(), self.regex.is_some(), self.tls.is_some()]
            .into_iter()
            .filter(|given| *given)
            .count()
    }

    fn turns(&self, host: &str, setting: &Setting) -> Result<Vec<Turn>, String> {
        let mut turns = Vec::new();
        if let Some(security) = &self.tls {
            turns.push(Turn::Secure(Box::new(Tls::new(host, security, setting, &[])?)));
        }
        if let Some(Payload(bytes)) = &self.send {
            turns.push(Turn::Send(bytes.clone()));
        }
        if let Some(text) = &self.expect {
            let pattern =
                Pattern::of_text(text).ok_or_else(|| format!("`{text}` is too long to be looked for"))?;
            turns.push(Turn::Await(pattern, "does not contain", text.clone()));
        }
        if let Some(pattern) = &self.regex {
            turns.push(Turn::Await(pattern.clone(), "does not match", pattern.to_string()));
        }
        Ok(turns)
    }
}

impl Probe for Tcp {
    type Prober = TcpProber;
    const EXAMPLE: &'static str = r#"[probe.redis.tcp]
address = "127.0.0.1:6379"
send    = "PING\r\n"
expect  = "PONG"
every   = "100ms"

[probe.mail.tcp]
address = "mail.example.com:587"
every   = "30s"
timeout = "5s"
script  = [
  { regex = "^220 " },
  { send = "EHLO probe.example.com\r\n" },
  { expect = "STARTTLS" },
  { send = "STARTTLS\r\n" },
  { regex = "\n220 .*\n" },
  { tls = true },
  { send = "EHLO probe.example.com\r\n" },
  { expect = "AUTH" },
]
"#;

    fn check(&self) -> Result<(), (String, String)> {
        let secured =
            usize::from(self.tls.is_some()) + self.script.iter().filter(|step| step.tls.is_some()).count();
        let wrong = if !self.script.is_empty() && (self.send.is_some() || self.expect.is_some()) {
            Some(("both `script` and `send` or `expect` are given", "say all of it in `script`"))
        } else if self.script.iter().any(|step| step.given() != 1) {
            Some((
                "a step of `script` does nothing, or more than one thing",
                "give each one of `send`, `expect`, `regex` and `tls`",
            ))
        } else if secured > 1 {
            Some(("TLS begins more than once", "give `tls` once"))
        } else {
            None
        };
        wrong.map_or(Ok(()), |(what, remedy)| Err((what.to_owned(), remedy.to_owned())))
    }

    fn prober(&self, setting: &Setting) -> Result<TcpProber, String> {
        let first =
            Step { send: self.send.clone(), expect: self.expect.clone(), regex: None, tls: self.tls.clone() };
        let mut turns = Vec::new();
        for step in std::iter::once(&first).chain(&self.script) {
            turns.extend(step.turns(&self.address.host, setting)?);
        }
        Ok(TcpProber { address: self.address.clone(), turns, names: setting.names() })
    }

    fn looks_at(&self) -> String {
        self.address.to_string()
    }
}

impl Prober for TcpProber {
    async fn look(&self, trace: &mut Trace) -> Result<(), Miss> {
        let Dialled { stream, peer } = self.address.dial(&self.names, trace).await?;
        let mut stream = Stream::Plain(stream);
        // What was said and not yet taken by a step.
        let mut heard = Vec::new();
        for turn in &self.turns {
            match turn {
                Turn::Send(bytes) => {
                    let part =
                        if trace.first_byte.is_none() { &mut trace.first_byte } else { &mut trace.transfer };
                    timed(part, stream.write_all(bytes)).await.map_err(|why| broken(peer, &why))?;
                }
                Turn::Secure(tls) => {
                    let Stream::Plain(plain) = stream else {
                        return Err(Miss::ours("TLS would begin twice"));
                    };
                    if !heard.is_empty() {
                        // It came in the clear and must not be taken for what comes over TLS.
                        let said = beginning(&heard);
                        return Err(Miss::new(format!("{peer} said more before TLS began: `{said}`")));
                    }
                    let dialled = Dialled { stream: plain, peer };
                    stream = Stream::Tls(Box::new(tls.shake(dialled, trace).await?));
                }
                Turn::Await(wanted, how, said) => {
                    let end = loop {
                        if let Some(end) = wanted.end_of_match(&heard) {
                            break end;
                        }
                        let before = heard.len();
                        let first = trace.first_byte.is_none();
                        let part = if first { &mut trace.first_byte } else { &mut trace.transfer };
                        let read = timed(part, stream.read_buf(&mut heard)).await;
                        match read {
                            Ok(length) if length > 0 && before < HEARD => {}
                            Err(why) if before == 0 => return Err(broken(peer, &why)),
                            _ if before == 0 => {
                                return Err(Miss::new(format!(
                                    "{peer} closed the connection without a word"
                                )));
                            }
                            ended => {
                                let begins = beginning(&heard);
                                let goes_on = ended.is_ok_and(|length| length > 0);
                                let of =
                                    if goes_on { "the first 64 KiB of the answer" } else { "the answer" };
                                let why = format!("{of} {how} `{said}`; it begins `{begins}`");
                                return Err(Miss::new(why));
                            }
                        }
                    };
                    trace.note("answer", || beginning(&heard));
                    heard.drain(..end);
                }
            }
        }
        Ok(())
    }
}
