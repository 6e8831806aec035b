//! HTTP/1, passed on byte for byte: we only find out where each message ends.
//!
//! Requests may come before earlier ones are answered. So one half reads them and says, in order, what
//! their answers will be; the other half gives the answers in that order.

use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};

use super::body::{Body, Step};
use super::head::{self, Answered, Question, Read};
use super::source::Source;
use super::{Answer, Asked, Talk, path_of};
use crate::hands::turn::{Busy, Phase};

/// Requests that wait for their answers; more wait in the kernel.
const PIPELINED: usize = 32;
/// A client that was told to go may take so long to hear it.
const LINGER: Duration = Duration::from_secs(1);
/// What describes a body, and so goes with it.
const OF_THE_BODY: &[&str] = &[
    "content-length",
    "transfer-encoding",
    "content-encoding",
    "content-md5",
    "content-digest",
    "repr-digest",
    "etag",
    "trailer",
];

/// What the next answer will be.
struct Next {
    what: What,
    /// To HEAD.
    bare: bool,
    busy: Option<Busy>,
}

enum What {
    /// The server's, changed when the request was chosen. The sender says whether the connection speaks
    /// something else from now on.
    Theirs { chosen: bool, upgrade: Option<oneshot::Sender<bool>> },
    /// Ours; whether it is the last one.
    Ours { last: bool },
    /// None, and the end.
    Silence,
    /// What follows cannot be read, and is passed on as it is.
    Strange,
}

/// How the connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// The server has no more to say; the client may.
    Half,
    /// Nobody has.
    Closed,
    /// As if it had been torn.
    Reset,
}

/// One connection, to its end.
pub(super) async fn speak(client: Source<TcpStream>, server: TcpStream, talk: Talk) {
    let (client, held) = client.open();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (say, hear) = mpsc::channel(PIPELINED);
    let mut asking =
        Asking { client: Source::with(from_client, held), server: to_server, say, talk: talk.clone() };
    let mut answering = Answering { server: Source::new(from_server), client: to_client, hear, talk };
    let ending = both(&mut asking, &mut answering).await;
    match ending {
        Ending::Reset => {
            for end in [answering.client, asking.server] {
                let _ = end.as_ref().set_zero_linger();
                end.forget(); // or it would say a proper goodbye first
            }
        }
        Ending::Closed | Ending::Half => {
            let _ = answering.client.shutdown().await;
            drop(asking.server);
            // What it still sends would be answered by a reset, which may overtake what it has to hear.
            let (mut rest, _) = asking.client.open();
            let mut sink = [0; 4096];
            let hearing = async { while let Ok(1..) = rest.read(&mut sink).await {} };
            let _ = tokio::time::timeout(LINGER, hearing).await;
        }
    }
}

/// Asks and answers until one of them ends it.
async fn both(asking: &mut Asking, answering: &mut Answering) -> Ending {
    let (asking, answering) = (asking.go(), answering.go());
    tokio::pin!(asking, answering);
    let mut asked = false;
    loop {
        tokio::select! {
            ended = &mut asking, if !asked => match ended {
                Ok(()) => asked = true,
                Err(_) => return Ending::Reset,
            },
            ended = &mut answering => return match ended {
                Ok(Ending::Half) if !asked && asking.await.is_err() => Ending::Reset,
                Ok(ending) => ending,
                Err(_) => Ending::Reset,
            },
        }
    }
}

/// The half that reads requests.
struct Asking {
    client: Source<OwnedReadHalf>,
    server: OwnedWriteHalf,
    say: mpsc::Sender<Next>,
    talk: Talk,
}

impl Asking {
    async fn go(&mut self) -> io::Result<()> {
        loop {
            match head::question(self.client.seen()) {
                Read::Partial => {
                    if self.client.more().await? == 0 {
                        // The end, perhaps in the middle: the server shall hear exactly that.
                        return self.client.pour(&mut self.server).await;
                    }
                }
                Read::Strange => {
                    self.talk.say(&self.talk.plan.tally.other);
                    self.next(What::Strange, false).await;
                    return self.client.pour(&mut self.server).await;
                }
                Read::Whole(question) => {
                    if !self.ask(question).await? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// One request; whether there may be more.
    async fn ask(&mut self, question: Question) -> io::Result<bool> {
        let asked = Asked {
            method: &question.method,
            path: path_of(&question.target),
            fields: question.fields.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect(),
        };
        let chosen = self.talk.choose(&asked);
        let bare = question.method == "HEAD";
        match &self.talk.fate().answer {
            Answer::None { .. } if chosen => {
                self.next(What::Silence, bare).await;
                return Ok(false);
            }
            Answer::Ours { .. } if chosen => {
                // A client that waits for a word before it sends the body will not send it now.
                let last = question.last || question.expects && !question.body.is_none();
                self.next(What::Ours { last }, bare).await;
                self.client.used(question.length);
                return Ok(self.body(question.body, false).await? && !last);
            }
            _ => {}
        }
        let (upgrade, upgraded) = oneshot::channel();
        let upgrade = question.upgrades.then_some(upgrade);
        self.next(What::Theirs { chosen, upgrade }, bare).await;
        if !self.pass(question.length).await {
            return Ok(false);
        }
        if !self.body(question.body, true).await? {
            return Ok(false);
        }
        if question.upgrades && upgraded.await == Ok(true) {
            self.client.pour(&mut self.server).await?;
            return Ok(false);
        }
        Ok(true)
    }

    /// Passes on so many bytes, if the server still takes any: it may have answered and closed, and the
    /// client shall hear that answer.
    async fn pass(&mut self, bytes: usize) -> bool {
        let passed = self.server.write_all(&self.client.seen()[..bytes]).await.is_ok();
        self.client.used(bytes);
        passed
    }

    /// Passes a body on, or takes it from the client and passes on nothing; whether more may follow.
    async fn body(&mut self, mut body: Body, on: bool) -> io::Result<bool> {
        let mut allowance = u64::MAX;
        loop {
            let step = body.step(self.client.seen(), &mut allowance);
            let (Step::More(bytes) | Step::End(bytes) | Step::Cut(bytes) | Step::Strange(bytes)) = step;
            if !on {
                self.client.used(bytes);
            } else if !self.pass(bytes).await {
                return Ok(false);
            }
            match step {
                Step::End(_) => return Ok(true),
                Step::More(_) if self.client.more().await? > 0 => {}
                // It ends in its middle, or is none: the server shall hear exactly that.
                _ if on => return self.client.pour(&mut self.server).await.map(|()| false),
                _ => return Ok(false),
            }
        }
    }

    async fn next(&self, what: What, bare: bool) {
        let busy = (!matches!(what, What::Strange)).then(|| self.talk.moment.busy());
        // When nobody hears it any more, the connection is about to end.
        let _ = self.say.send(Next { what, bare, busy }).await;
    }
}

/// The half that answers.
struct Answering {
    server: Source<OwnedReadHalf>,
    client: OwnedWriteHalf,
    hear: mpsc::Receiver<Next>,
    talk: Talk,
}

impl Answering {
    async fn go(&mut self) -> io::Result<Ending> {
        loop {
            let next = if self.server.seen().is_empty() {
                tokio::select! {
                    biased;
                    next = self.hear.recv() => next,
                    read = self.server.more() => {
                        if read? == 0 {
                            return Ok(Ending::Closed);
                        }
                        continue;
                    }
                    () = self.talk.moment.reaches(Phase::Leaving) => return Ok(Ending::Closed),
                }
            } else {
                // It may speak unasked: to say that it closes because nobody asked.
                match self.hear.try_recv() {
                    Ok(next) => Some(next),
                    Err(_) => return self.rest().await,
                }
            };
            let Some(next) = next else {
                // No more is asked; it says what it has to say, and closes.
                self.server.pour(&mut self.client).await?;
                return Ok(Ending::Closed);
            };
            if let Some(ending) = self.answer(next).await? {
                return Ok(ending);
            }
        }
    }

    /// All that the server says, as it is.
    async fn rest(&mut self) -> io::Result<Ending> {
        self.server.pour(&mut self.client).await?;
        Ok(Ending::Half)
    }

    /// One answer; how the connection ends when it does.
    async fn answer(&mut self, next: Next) -> io::Result<Option<Ending>> {
        let Next { what, bare, busy } = next;
        match what {
            What::Strange => self.rest().await.map(Some),
            What::Theirs { chosen, upgrade } => self.theirs(bare, chosen, upgrade, busy).await,
            What::Ours { last } => {
                self.talk.hold().await;
                let plan = self.talk.plan.clone();
                let Answer::Ours { status, fields, body } = &plan.fate.answer else { return Ok(None) };
                let last = last || self.leaving();
                self.client.write_all(&ours(*status, fields, body, bare, last)).await?;
                self.talk.done();
                Ok(last.then_some(Ending::Closed))
            }
            What::Silence => {
                self.talk.hold().await;
                self.talk.done();
                let reset = matches!(self.talk.fate().answer, Answer::None { reset: true });
                Ok(Some(if reset { Ending::Reset } else { Ending::Closed }))
            }
        }
    }

    /// Whether the next answer is to be the last one here, so that the client comes back without us.
    fn leaving(&self) -> bool {
        self.talk.moment.is_over() && self.hear.is_empty()
    }

    async fn theirs(
        &mut self,
        bare: bool,
        chosen: bool,
        upgrade: Option<oneshot::Sender<bool>>,
        busy: Option<Busy>,
    ) -> io::Result<Option<Ending>> {
        let answered = loop {
            match head::answer(self.server.seen(), bare) {
                Read::Partial => {
                    if self.server.more().await? == 0 {
                        // Closed without an answer, or in its middle.
                        self.server.pour(&mut self.client).await?;
                        return Ok(Some(Ending::Closed));
                    }
                }
                Read::Strange => return self.rest().await.map(Some),
                // An answer on the way to the answer.
                Read::Whole(head) if head.status < 200 && head.status != 101 => {
                    self.pass(head.length).await?;
                }
                Read::Whole(head) => break head,
            }
        };
        if let Some(upgrade) = upgrade {
            let upgraded = answered.status == 101 || answered.body == Body::ToEnd && answered.status < 300;
            if upgraded {
                drop(busy); // From now on nobody can tell.
                let _ = upgrade.send(true);
                return self.rest().await.map(Some);
            }
            let _ = upgrade.send(false);
        }
        if chosen && self.talk.hold().await {
            return self.changed(answered, bare).await;
        }
        let last = self.leaving();
        if last {
            let close = [("Connection".to_owned(), "close".to_owned())];
            let head = head::with(&self.server.seen()[..answered.length], &["keep-alive"], &close);
            self.client.write_all(&head).await?;
            self.server.used(answered.length);
        } else {
            self.pass(answered.length).await?;
        }
        let ending = self.body(answered.body, Some(u64::MAX)).await?;
        Ok(ending.or(last.then_some(Ending::Closed)))
    }

    /// The answer to a request that was chosen.
    async fn changed(&mut self, answered: Answered, bare: bool) -> io::Result<Option<Ending>> {
        let plan = self.talk.plan.clone();
        let Answer::Theirs { fields, body, cut } = &plan.fate.answer else { return Ok(None) };
        let (length, theirs) = (answered.length, answered.body);
        let bodied =
            !bare && (!theirs.is_none() || answered.status >= 200 && !matches!(answered.status, 204 | 304));
        if let Some(body) = body.as_ref().filter(|_| bodied) {
            let mut fields = fields.clone();
            fields.push(("Content-Length".to_owned(), body.len().to_string()));
            let mut head = head::with(&self.server.seen()[..length], OF_THE_BODY, &fields);
            head.extend_from_slice(body);
            self.server.used(length);
            self.client.write_all(&head).await?;
            self.talk.done();
            // Without an end of its own it would never end for us.
            let endless = theirs == Body::ToEnd;
            return if endless { Ok(Some(Ending::Closed)) } else { self.body(theirs, None).await };
        }
        let head = head::with(&self.server.seen()[..length], &[], fields);
        self.server.used(length);
        self.client.write_all(&head).await?;
        let Some(cut) = cut else {
            if body.is_some() && fields.is_empty() {
                self.talk.unfit();
            } else {
                self.talk.done();
            }
            return self.body(theirs, Some(u64::MAX)).await;
        };
        let (ending, cut) = self.up_to(theirs, *cut).await?;
        if cut {
            self.talk.done();
        } else {
            self.talk.unfit();
        }
        Ok(ending)
    }

    async fn pass(&mut self, bytes: usize) -> io::Result<()> {
        self.client.write_all(&self.server.seen()[..bytes]).await?;
        self.server.used(bytes);
        Ok(())
    }

    /// Passes on a body, or takes it from the server and passes on nothing.
    async fn body(&mut self, body: Body, allowance: Option<u64>) -> io::Result<Option<Ending>> {
        match allowance {
            Some(allowance) => self.up_to(body, allowance).await.map(|(ending, _)| ending),
            None => self.walk(body, u64::MAX, false).await.map(|(ending, _)| ending),
        }
    }

    /// Passes on so much of a body; how the connection ends when it does, and whether it was cut.
    async fn up_to(&mut self, body: Body, allowance: u64) -> io::Result<(Option<Ending>, bool)> {
        self.walk(body, allowance, true).await
    }

    async fn walk(
        &mut self,
        mut body: Body,
        mut allowance: u64,
        on: bool,
    ) -> io::Result<(Option<Ending>, bool)> {
        loop {
            let step = body.step(self.server.seen(), &mut allowance);
            let (Step::More(bytes) | Step::End(bytes) | Step::Cut(bytes) | Step::Strange(bytes)) = step;
            if on {
                self.pass(bytes).await?;
            } else {
                self.server.used(bytes);
            }
            match step {
                Step::End(_) => return Ok((None, false)),
                Step::Cut(_) => return Ok((Some(Ending::Closed), true)),
                Step::Strange(_) => return self.rest().await.map(|ending| (Some(ending), false)),
                Step::More(_) => {
                    if self.server.more().await? == 0 {
                        return Ok((Some(Ending::Closed), false));
                    }
                }
            }
        }
    }
}

/// An answer of ours.
fn ours(status: u16, fields: &[(String, String)], body: &Bytes, bare: bool, last: bool) -> Vec<u8> {
    let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("");
    let mut text = format!("HTTP/1.1 {status} {reason}\r\n");
    for (name, value) in fields {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    let without = status < 200 || matches!(status, 204 | 304);
    if !without {
        let _ = write!(text, "Content-Length: {}\r\n", body.len());
    }
    if last {
        text += "Connection: close\r\n";
    }
    text += "\r\n";
    let mut bytes = text.into_bytes();
    if !bare && !without {
        bytes.extend_from_slice(body);
    }
    bytes
}
