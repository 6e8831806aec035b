//! HTTP on connections that were turned to us: what is chosen is hurt, everything else goes on as it is.
//!
//! HTTP/1 is passed on byte for byte (`one`); HTTP/2 without TLS is ended and begun anew, with the same
//! requests and answers (`two`); whatever is neither is carried as it is and counted.

mod body;
mod head;
mod one;
mod source;
mod two;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Bytes;
use tokio::net::TcpStream;

use super::queue::Tally as Times;
use super::turn::{Moment, Serve, Turned};
use source::Source;

/// A connection that has not said by then what it speaks is carried as it is.
const SILENT: Duration = Duration::from_secs(5);
/// With these bytes HTTP/2 begins (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The first byte of TLS: a handshake record (RFC 8446, section 5.1).
const TLS: u8 = 0x16;

/// A request, as far as a choice can be made by it.
#[derive(Debug)]
pub struct Asked<'a> {
    /// Its method.
    pub method: &'a str,
    /// Its path, without the query.
    pub path: &'a str,
    /// Its fields, by name; that of HTTP/2 for the host is `host` here too.
    pub fields: Vec<(&'a str, &'a [u8])>,
}

/// What becomes of a request that is chosen.
#[derive(Debug, Clone)]
pub struct Fate {
    /// Its answer comes so much later.
    pub delay: Duration,
    /// What it gets.
    pub answer: Answer,
}

/// What a request that is chosen gets.
#[derive(Debug, Clone)]
pub enum Answer {
    /// What the server says to it, changed.
    Theirs {
        /// With these fields instead of its own of these names.
        fields: Vec<(String, String)>,
        /// With this body instead of its own.
        body: Option<Bytes>,
        /// Cut after so many bytes of its body, if there are more.
        cut: Option<u64>,
    },
    /// Ours; the server never hears of the request.
    Ours {
        /// The status.
        status: u16,
        /// The fields.
        fields: Vec<(String, String)>,
        /// The body.
        body: Bytes,
    },
    /// None: the connection is closed. The server never hears of the request.
    None {
        /// By a reset, as when the server had crashed.
        reset: bool,
    },
}

/// What was seen and done.
#[derive(Debug, Default)]
pub struct Tally {
    /// Connections that spoke HTTP/1.
    pub http1: AtomicU64,
    /// Connections that spoke HTTP/2.
    pub http2: AtomicU64,
    /// Connections that spoke TLS, which nobody but their ends can read.
    pub tls: AtomicU64,
    /// Connections that spoke something else, or ceased to be readable.
    pub other: AtomicU64,
    /// Connections of clients that are not meant.
    pub others: AtomicU64,
    /// Requests read, those of our own excepted.
    pub requests: AtomicU64,
    /// Requests chosen.
    pub chosen: AtomicU64,
    /// Chosen, and done to them what was asked.
    pub done: AtomicU64,
    /// Chosen, and there was nothing to change: no more bytes than were to be left, or no body.
    pub unfit: AtomicU64,
    /// How long answers were held.
    pub held: Times,
}

fn count(what: &AtomicU64) {
    what.fetch_add(1, Ordering::Relaxed);
}

/// Chooses; the second word says that the request is one of our own, which is not counted.
pub type Judge = Box<dyn Fn(&Asked<'_>, bool) -> bool + Send + Sync>;
/// Whether a client, by its address and where it goes, is meant.
pub type Whose = Box<dyn Fn(SocketAddr, SocketAddr) -> bool + Send + Sync>;

/// What is asked of us, and what has come of it.
pub struct Plan {
    judge: Judge,
    whose: Option<Whose>,
    fate: Fate,
    own: Mutex<BTreeSet<u16>>,
    tally: Tally,
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan").field("fate", &self.fate).field("tally", &self.tally).finish_non_exhaustive()
    }
}

impl Plan {
    /// For the requests that `judge` chooses, of the clients that `whose` means, or of all.
    #[must_use]
    pub fn new(judge: Judge, whose: Option<Whose>, fate: Fate) -> Arc<Self> {
        Arc::new(Self { judge, whose, fate, own: Mutex::default(), tally: Tally::default() })
    }

    /// What was seen and done until now.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The next connection from this port is our own. To be said before it is made.
    pub fn is_own(&self, port: u16) {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).insert(port);
    }

    /// What is done with each connection.
    #[must_use]
    pub fn serve(self: &Arc<Self>) -> Serve {
        let plan = Arc::clone(self);
        Arc::new(move |turned| Box::pin(serve(Arc::clone(&plan), turned)))
    }
}

/// One connection of the plan.
#[derive(Debug, Clone)]
struct Talk {
    plan: Arc<Plan>,
    moment: Moment,
    own: bool,
}

impl Talk {
    /// Whether a request is to be hurt.
    fn choose(&self, asked: &Asked<'_>) -> bool {
        let tally = &self.plan.tally;
        self.say(&tally.requests);
        let chosen = self.moment.live() && (self.plan.judge)(asked, self.own);
        if chosen && !self.own {
            count(&tally.chosen);
        }
        chosen
    }

    fn fate(&self) -> &Fate {
        &self.plan.fate
    }

    /// Holds an answer back as long as was asked; whether it may still be changed then.
    async fn hold(&mut self) -> bool {
        let delay = self.plan.fate.delay;
        if !delay.is_zero() {
            let held = self.moment.wait(delay).await;
            if !self.own && held >= delay {
                self.plan.tally.held.add(&[held]);
            }
        }
        self.moment.live()
    }

    /// It was done as asked.
    fn done(&self) {
        self.say(&self.plan.tally.done);
    }

    /// There was nothing to do it to.
    fn unfit(&self) {
        self.say(&self.plan.tally.unfit);
    }

    fn say(&self, what: &AtomicU64) {
        if !self.own {
            count(what);
        }
    }
}

/// The path of a request, from what stands in its first line, without the query.
fn path_of(target: &str) -> &str {
    let path = match target.split_once("://") {
        // The absolute form (RFC 9112, section 3.2.2), as to a proxy.
        Some((_, rest)) if !target.starts_with('/') => rest.find('/').map_or("/", |at| &rest[at..]),
        _ => target,
    };
    path.split(['?', '#']).next().unwrap_or_default()
}

async fn serve(plan: Arc<Plan>, turned: Turned) {
    let Ok(server) = turned.reach().await else {
        // It was refused or found nobody: the nearest to that is a reset.
        let _ = turned.client.set_zero_linger();
        return;
    };
    let (from, to) = (turned.from, turned.to);
    let own = plan.own.lock().unwrap_or_else(PoisonError::into_inner).remove(&from.port());
    let meant = own || plan.whose.as_ref().is_none_or(|whose| whose(from, to));
    if !meant {
        count(&plan.tally.others);
        carry(turned.client, server, Vec::new()).await;
        return;
    }
    let talk = Talk { plan, moment: turned.moment, own };
    let mut client = Source::new(turned.client);
    let tally = &talk.plan.tally;
    match listen(&mut client, &server).await {
        Speaks::Http1 => {
            talk.say(&tally.http1);
            one::speak(client, server, talk).await;
        }
        Speaks::Http2 => {
            talk.say(&tally.http2);
            two::speak(client, server, talk).await;
        }
        Speaks::Tls => {
            talk.say(&tally.tls);
            let (client, held) = client.open();
            carry(client, server, held).await;
        }
        Speaks::Other => {
            talk.say(&tally.other);
            let (client, held) = client.open();
            carry(client, server, held).await;
        }
    }
}

/// What a connection speaks, by its first bytes.
#[derive(Debug, PartialEq, Eq)]
enum Speaks {
    Http1,
    Http2,
    Tls,
    Other,
}

fn speaks(bytes: &[u8]) -> Option<Speaks> {
    let common = bytes.len().min(PREFACE.len());
    if bytes.first() == Some(&TLS) {
        return Some(Speaks::Tls);
    }
    if bytes[..common] == PREFACE[..common] {
        return (common == PREFACE.len()).then_some(Speaks::Http2);
    }
    match head::question(bytes) {
        head::Read::Partial => None,
        head::Read::Whole(_) => Some(Speaks::Http1),
        head::Read::Strange => Some(Speaks::Other),
    }
}

/// Reads until it is clear what is spoken, or the server speaks first, or nobody does for long.
async fn listen(client: &mut Source<TcpStream>, server: &TcpStream) -> Speaks {
    let mut first = [0; 9];
    let mut heard = false;
    let patience = tokio::time::sleep(SILENT);
    tokio::pin!(patience);
    loop {
        if let Some(speaks) = speaks(client.seen()) {
            return speaks;
        }
        tokio::select! {
            read = client.more() => if !matches!(read, Ok(1..)) {
                return Speaks::Other;
            },
            read = server.peek(&mut first), if !heard => match read {
                // A server of HTTP/2 need not wait for the client (RFC 9113, section 3.4).
                Ok(n) if settings(&first[..n]) => heard = true,
                _ => return Speaks::Other,
            },
            // Who says nothing at all may still say something: a pool opens connections in advance.
            () = &mut patience, if !client.seen().is_empty() => return Speaks::Other,
        }
    }
}

/// Whether a frame of HTTP/2 begins so that a connection may begin with: SETTINGS, kind 4, without flags, of no
/// stream (RFC 9113, section 6.5), after the three bytes of its length.
fn settings(bytes: &[u8]) -> bool {
    bytes.len() == 9 && bytes[0] == 0 && bytes[3..] == [4, 0, 0, 0, 0, 0]
}

/// Carries both ways as it is, to the end.
async fn carry(mut client: TcpStream, mut server: TcpStream, held: Vec<u8>) {
    use tokio::io::AsyncWriteExt as _;
    let carried = async {
        server.write_all(&held).await?;
        tokio::io::copy_bidirectional(&mut client, &mut server).await
    };
    if carried.await.is_err() {
        // One side was reset: so is the other.
        let _ = (client.set_zero_linger(), server.set_zero_linger());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spoken_is_told_by_the_first_bytes() {
        assert_eq!(speaks(b""), None);
        assert_eq!(speaks(b"GE"), None);
        assert_eq!(speaks(b"GET / HTTP/1.1\r\n\r\n"), Some(Speaks::Http1));
        assert_eq!(speaks(b"PRI * HTTP/2.0\r\n\r\nSM"), None);
        assert_eq!(speaks(PREFACE), Some(Speaks::Http2));
        assert_eq!(speaks(&[0x16, 3, 1]), Some(Speaks::Tls));
        assert_eq!(speaks(b"*1\r\n$4\r\nPING\r\n"), Some(Speaks::Other));
        assert_eq!(speaks(b"SSH-2.0-x\r\n"), Some(Speaks::Other));
        assert_eq!(speaks(&[0, 1, 2]), Some(Speaks::Other));
    }

    #[test]
    fn a_server_of_http_2_may_speak_first() {
        assert!(settings(&[0, 0, 24, 4, 0, 0, 0, 0, 0]));
        assert!(!settings(b"220 ready") && !settings(&[0, 0, 24, 4, 1, 0, 0, 0, 0]) && !settings(&[0, 0]));
    }

    #[test]
    fn a_path_has_no_query_and_no_host() {
        for (target, path) in [
            ("/a/b?c=/d", "/a/b"),
            ("*", "*"),
            ("http://h:1/a?b", "/a"),
            ("http://h", "/"),
            ("/x?u=http://y/z", "/x"),
        ] {
            assert_eq!(path_of(target), path, "{target}");
        }
    }
}
