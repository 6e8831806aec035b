//! `dns`: does a name server answer a question, and as it should?

use std::net::SocketAddr;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, Record, RecordType};
use serde_json::{Value as Json, json};

use super::dial::{Address, broken, datagrams, ended, look_up};
use super::expect::Pattern;
use super::security::{Security, Tls};
use super::stream::Stream;
use super::{Miss, Probe, Prober, Setting, Trace, read_text, timed};
use crate::file::{Mistakes, Node, Read};
use crate::host::lookup::{NoAnswer, over_datagrams, over_stream, question, said};
use crate::host::names::Names;
use crate::host::socket::Protocol;

crate::kind! {
    /// Asks a name server one question and judges the answer.
    ///
    /// Asked is this server and no other, for this name and no other: no search list, nothing kept from the look before,
    /// nothing asked twice. A datagram that does not answer the question is not heard.
    ///
    /// A record is judged as it stands in a zone file: `db.example.com. 300 IN A 192.0.2.7`.
    pub struct Dns("dns") {
        /// The server: `host:port`.
        address: Address = required,
        /// The name that is asked for, from the root on.
        name: Asked = required,
        /// The type of the records: `A`, `AAAA`, `CNAME`, `MX`, `NS`, `PTR`, `SOA`, `SRV`, `TXT` and others.
        r#type: Type = "A",
        /// By `udp` or `tcp`.
        protocol: Protocol = "udp",
        /// TLS (RFC 7858), over tcp: `true`, or a table with `ca_file`, `insecure`, `name`, `min_version`, `cert_file` and
        /// `key_file`.
        tls: Security = optional,
        /// Whether the server is to ask others when it does not know.
        recurse: bool = "true",
        /// What the answer must be: its `rcode` (`NOERROR`, `NXDOMAIN`, `SERVFAIL`, `REFUSED`, `FORMERR`, `NOTIMP`), whether
        /// it is `authoritative`, and regular expressions: each of `answer`, `authority` and `additional` must be found in a
        /// record of that section (`"."` is found in any), each of `never` in no record of the answer. An answer that was
        /// cut short to fit into a datagram is bad where records are expected.
        expect: Expect = "{}",
    }
}

crate::kind! {
    /// What an answer must be.
    pub struct Expect("expect") {
        /// What it says of the name.
        rcode: ResponseCode = "NOERROR",
        /// Whether the server answers out of its own zone.
        authoritative: bool = optional,
        /// Each is found in a record of the answer.
        answer: Vec<Pattern> = "[]",
        /// Each is found in a record about the servers of the zone.
        authority: Vec<Pattern> = "[]",
        /// Each is found in a record beside the answer.
        additional: Vec<Pattern> = "[]",
        /// Each is found in no record of the answer.
        never: Vec<Pattern> = "[]",
    }
}

crate::table!(Expect, "`expect`");
crate::words!(Protocol, "protocol", "udp" => Protocol::Udp, "tcp" => Protocol::Tcp);
crate::words!(ResponseCode, "rcode", "NOERROR" => ResponseCode::NoError, "NXDOMAIN" => ResponseCode::NXDomain,
    "SERVFAIL" => ResponseCode::ServFail, "REFUSED" => ResponseCode::Refused, "FORMERR" => ResponseCode::FormErr,
    "NOTIMP" => ResponseCode::NotImp);

/// A name that is asked for.
#[derive(Debug, Clone)]
pub struct Asked(Name);

impl Read for Asked {
    const NAME: &'static str = "name";
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        read_text(node, mistakes, |text| match Name::from_ascii(text) {
            Ok(mut name) if !text.is_empty() => {
                name.set_fqdn(true);
                Ok(Self(name))
            }
            _ => Err((format!("`{text}` is not a name"), "write it like \"db.example.com\"")),
        })
    }
    fn schema() -> Json {
        json!({"type": "string", "minLength": 1})
    }
}

/// A type of records.
#[derive(Debug, Clone, Copy)]
pub struct Type(RecordType);

impl Read for Type {
    const NAME: &'static str = "record type";
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        // A transfer of a whole zone has many answers.
        read_text(node, mistakes, |text| match text.parse() {
            Ok(kind) if kind != RecordType::AXFR => Ok(Self(kind)),
            _ => {
                Err((format!("`{text}` is not a type of records"), "write it like \"A\", \"AAAA\" or \"MX\""))
            }
        })
    }
    fn schema() -> Json {
        json!({"type": "string", "pattern": "^[A-Z0-9]+$"})
    }
}

/// Asks, again and again.
pub struct DnsProber {
    dns: Dns,
    tls: Option<Tls>,
    names: Names,
}

impl Probe for Dns {
    type Prober = DnsProber;
    const EXAMPLE: &'static str = r#"[probe.resolver.dns]
address = "127.0.0.53:53"
name    = "db.example.com"
expect  = { answer = ["IN A 192\\.0\\.2\\."] }
every   = "1s"

[probe.mail.dns]
address  = "192.0.2.53:53"
name     = "example.com"
type     = "MX"
protocol = "tcp"
recurse  = false
expect   = { answer = ["IN MX 10 mail"], never = ["old\\.example"] }
every    = "30s"
"#;

    fn check(&self) -> Result<(), (String, String)> {
        if self.tls.is_some() && self.protocol == Protocol::Udp {
            return Err(("`tls` is given, but not `tcp`".to_owned(), "write protocol = \"tcp\"".to_owned()));
        }
        Ok(())
    }

    fn prober(&self, setting: &Setting) -> Result<DnsProber, String> {
        let tls = self.tls.as_ref().map(|security| Tls::new(&self.address.host, security, setting, &["dot"]));
        Ok(DnsProber { dns: self.clone(), tls: tls.transpose()?, names: setting.names() })
    }

    fn looks_at(&self) -> String {
        format!("{} {} {}", self.address, self.name.0, self.r#type.0)
    }
}

impl Prober for DnsProber {
    async fn look(&self, trace: &mut Trace) -> Result<(), Miss> {
        let Dns { address, name, r#type, recurse, .. } = &self.dns;
        let mut question = question(&name.0, r#type.0);
        question.metadata.recursion_desired = *recurse;
        let answer = match self.dns.protocol {
            Protocol::Tcp => {
                let dialled = address.dial(&self.names, trace).await?;
                let peer = dialled.peer;
                let mut stream = match &self.tls {
                    Some(tls) => Stream::Tls(Box::new(tls.shake(dialled, trace).await?)),
                    None => Stream::Plain(dialled.stream),
                };
                let asking = over_stream(&mut stream, &question);
                timed(&mut trace.first_byte, asking).await.map_err(|why| match why {
                    NoAnswer::Io(why) => broken(peer, &why),
                    NoAnswer::Ended { begun } => ended(peer, begun),
                    NoAnswer::Other(why) => {
                        Miss::new(format!("{peer} does not answer the question: what came {why}"))
                    }
                })
            }
            Protocol::Udp => {
                let peer = SocketAddr::new(look_up(&address.host, &self.names, trace).await?, address.port);
                trace.note("peer", || peer.to_string());
                let socket = datagrams(peer, &self.names).await?;
                let Trace { phases, not_heard, .. } = trace;
                let asking = over_datagrams(&socket, &question, not_heard);
                timed(&mut phases.first_byte, asking).await.map_err(|why| broken(peer, &why))
            }
        }?;
        noted(&answer, trace);
        self.dns.expect.wrong(&answer).map_or(Ok(()), |why| Err(Miss::new(why)))
    }
}

/// The sections of an answer that hold records.
fn sections(answer: &Message) -> [(&'static str, &[Record]); 3] {
    [("answer", &answer.answers), ("authority", &answer.authorities), ("additional", &answer.additionals)]
}

fn noted(answer: &Message, trace: &mut Trace) {
    let about = &answer.metadata;
    trace.measure("rcode", u16::from(about.response_code), || said(about.response_code));
    trace.note("authoritative", || about.authoritative.to_string());
    for (section, records) in sections(answer) {
        for record in records {
            trace.note(section, || record.to_string());
        }
    }
}

impl Expect {
    /// What is wrong with an answer.
    fn wrong(&self, answer: &Message) -> Option<String> {
        let about = &answer.metadata;
        if about.response_code != self.rcode {
            return Some(format!(
                "the answer is {}, expected {}",
                said(about.response_code),
                said(self.rcode)
            ));
        }
        if self.authoritative.is_some_and(|wanted| wanted != about.authoritative) {
            let comes = ["comes from no authority for the name", "comes from an authority for the name"];
            return Some(format!("the answer {}", comes[usize::from(about.authoritative)]));
        }
        let wanted = [&self.answer, &self.authority, &self.additional];
        if about.truncation && (wanted.iter().any(|all| !all.is_empty()) || !self.never.is_empty()) {
            return Some("the answer is cut short: it does not fit into a datagram".to_owned());
        }
        for ((section, records), wanted) in sections(answer).into_iter().zip(wanted) {
            let records: Vec<String> = records.iter().map(ToString::to_string).collect();
            let found = |pattern: &Pattern| records.iter().find(|record| pattern.is_match(record.as_bytes()));
            if let Some(pattern) = wanted.iter().find(|pattern| found(pattern).is_none()) {
                return Some(if records.is_empty() {
                    format!("there is no record in the section `{section}`, expected `{pattern}`")
                } else {
                    format!("no record in the section `{section}` matches `{pattern}`")
                });
            }
            let never = self.never.iter().filter(|_| section == "answer");
            if let Some(pattern) = never.into_iter().find(|pattern| found(pattern).is_some()) {
                return Some(format!("a record of the answer matches `{pattern}`"));
            }
        }
        None
    }
}
