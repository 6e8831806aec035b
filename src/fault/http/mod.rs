//! `http`: requests are answered wrongly, late, half or not at all.

mod choice;
mod fields;
mod proof;

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body;
use serde::{Deserialize, Serialize};

use super::traffic::{self, Clients, Reach};
use super::{Ability, Aim, Effect, Fault, FaultError, Held, Owed, Refusal, Site, UndoError};
use crate::base::clock::since_boot;
use crate::base::unit::say;
use crate::base::{Bytes, Percent};
use crate::hands::http::{Answer, Asked, Fate, Plan, Whose};
use crate::hands::rules::{self, TurnBy};
use crate::hands::turn::{Turning, Wanted};
use crate::host::process::Identity;
use crate::host::rights::Rights;
use crate::host::socket::{self, Owners, Protocol};
use crate::host::target::Endpoint;
use crate::undo::{Claim, Tier};
use choice::Choice;
use fields::{Given, Glob, GrpcStatus, HangUp, Held as Wants, Methods, Pattern, Status, grpc_message};
use proof::{Got, get, speaks_tls};

crate::kind! {
    /// Answers HTTP requests wrongly, late, half or not at all; all others go through as they are.
    ///
    /// `to` is a process or an endpoint that serves HTTP: HTTP/1, byte for byte what it was where nothing is
    /// changed, or HTTP/2 without TLS, as gRPC speaks it. `path`, `method` and `request_header` say which
    /// requests are meant, `percent` and `first` how many of them are hurt, the rest says how. With `status`,
    /// `grpc_status` or `hang_up` the server never hears of the request; otherwise it does, and its answer is
    /// changed. `from` narrows to some clients.
    ///
    /// New connections are led through us in the kernel, and clients and servers are not changed. Connections
    /// made before are not touched: a client that keeps some must open others before the fault reaches it.
    /// Those made meanwhile go on when it is over: the next answer on each says `Connection: close` (HTTP/2:
    /// GOAWAY), so that clients come back without us; what is idle when brownout ends is closed, what is under
    /// way gets ten seconds. When brownout is killed, they are closed at once.
    ///
    /// What is not HTTP (TLS too: nobody but its two ends can read it) is carried as it is, and counted: hurt
    /// HTTP behind the TLS end instead. For what comes from other hosts, the server sees this host as the client
    /// for as long as the fault lasts: do not use it where a server lets clients in by address. A fault on packets
    /// of the same port meets each request twice meanwhile, on either side of us.
    pub struct Http("http") {
        /// Only requests to this path, without the query: `*` stands for anything but `/`, `**` for anything.
        path: Glob = optional,
        /// Only requests whose path, without the query, matches this regular expression.
        path_regex: Pattern = optional,
        /// Only requests of this method, or of one of these.
        method: Methods = optional,
        /// Only requests with these headers: a table of names and regular expressions. `host` is that of
        /// HTTP/2 too.
        request_header: Wants = "{}",
        /// So many of them, drawn from the seed.
        percent: Percent = "100%",
        /// Only the first so many: does the client try again?
        first: u64 = optional,
        /// The answer is held back for so long.
        delay: Duration = "0s",
        /// They are answered with this status, and the server is not asked.
        status: Status = optional,
        /// gRPC calls fail with this status, a name such as "UNAVAILABLE" or its number, and the server is not
        /// asked.
        grpc_status: GrpcStatus = optional,
        /// The message to it.
        grpc_message: String = optional,
        /// Headers of the answer: a table of names and values, instead of the server's own of these names.
        answer_header: Given = "{}",
        /// The body of the answer: to `status`, or instead of the server's own.
        body: String = optional,
        /// The server's answer ends after so many bytes of its body, if it has more, and the connection is closed.
        truncate: Bytes = optional,
        /// They get no answer, and the server is not asked: the connection is ended by `close` or by `reset`
        /// (HTTP/2: the stream is reset).
        hang_up: HangUp = optional,
    }
}

/// What is intercepted, and by whom.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Intercepted {
    reach: Reach,
    table: String,
    wanted: Vec<Wanted>,
}

/// The longest delay that makes sense to ask for: clients have given up by then.
const LONGEST: Duration = Duration::from_mins(10);
/// A request of our own waits so much longer than was asked.
const PATIENCE: Duration = Duration::from_secs(2);
const ANYWHERE: Endpoint = Endpoint { address: None, port: None };
const TLS_IS_CLOSED: &str = "it speaks TLS, which only its two ends can read: hurt HTTP behind the TLS end";

impl Fault for Http {
    type Owed = Intercepted;
    const LASTING: bool = true;
    const AIM: Aim = Aim::Traffic;
    const TIER: Tier = Tier::Kernel;
    const EXAMPLE: &'static str = r#"[fault.orders-fail.http]
to      = { port = 8080 }
path    = "/orders/**"
percent = "30%"
status  = 503
for     = "30s"
"#;

    fn check(&self) -> Result<(), (String, String)> {
        let wrong = |what: &str, remedy: &str| Err((what.to_owned(), remedy.to_owned()));
        let changes = self.body.is_some() || !self.answer_header.0.is_empty();
        let ours = self.status.is_some() || self.grpc_status.is_some();
        if !(ours || changes || self.truncate.is_some() || self.hang_up.is_some() || !self.delay.is_zero()) {
            return wrong(
                "it does not say what becomes of the requests",
                "give it `status`, `grpc_status`, `body`, `answer_header`, `truncate`, `hang_up` or `delay`",
            );
        }
        if self.path.is_some() && self.path_regex.is_some() {
            return wrong("both `path` and `path_regex` are given", "give one of them");
        }
        if self.hang_up.is_some() && (ours || changes || self.truncate.is_some()) {
            return wrong(
                "with `hang_up` there is no answer to be changed",
                "give `hang_up` alone, or with `delay`",
            );
        }
        if self.truncate.is_some() && (ours || self.body.is_some()) {
            return wrong(
                "`truncate` cuts what the server answers, and here it is not asked",
                "give one of them",
            );
        }
        if self.grpc_status.is_some() && (self.status.is_some() || self.body.is_some()) {
            return wrong(
                "a gRPC call that fails has its status in `grpc_status`, and no body",
                "give that alone",
            );
        }
        if self.grpc_message.is_some() && self.grpc_status.is_none() {
            return wrong("`grpc_message` belongs to a `grpc_status`", "give that too");
        }
        if self.first == Some(0) || self.percent.share() <= 0.0 {
            return wrong("that is no request at all", "let `first` be 1 or more, and `percent` above 0%");
        }
        if self.delay > LONGEST {
            let remedy = format!("ask for at most {}", say(LONGEST));
            return Err((format!("a delay of {} is too long", say(self.delay)), remedy));
        }
        Ok(())
    }

    fn ability(_: &Rights) -> Ability {
        let tier = Some(Tier::Kernel);
        match (rules::probe_turn(TurnBy::Tproxy), rules::probe_turn(TurnBy::Redirect)) {
            (Ok(()), Ok(())) => Ability::yes("nf_tables leads connections through us", tier),
            (Ok(()), Err(why)) => {
                Ability::limited("only servers on this host", tier, format!("servers elsewhere: {why}"))
            }
            (Err(why), Ok(())) => {
                Ability::limited("only servers elsewhere", tier, format!("servers on this host: {why}"))
            }
            (Err(why), Err(_)) => Ability::no(why.to_string(), ""),
        }
    }

    async fn survey(&self, site: &Site) -> Result<Intercepted, Refusal> {
        let reach = Reach::survey(site)?;
        let endpoints = served(site, &reach)?;
        let refuse = |why: FaultError| site.refuse(why.to_string(), "run as root");
        let wanted = reach.within(|| wanted(site, &endpoints)).map_err(refuse)?;
        let ways = wanted.iter().map(|wanted| wanted.by);
        for by in
            [TurnBy::Tproxy, TurnBy::Redirect].into_iter().filter(|by| ways.clone().any(|way| way == *by))
        {
            reach.within(|| rules::probe_turn(by)).map_err(refuse)?.map_err(|why| {
                site.refuse(
                    why.to_string(),
                    "or let the client ask an address of a proxy that fails as you like",
                )
            })?;
        }
        let table = format!("brownout_{}_{}", site.run, site.mark());
        Ok(Intercepted { reach, table, wanted })
    }

    async fn inject(&self, site: &Site, owed: &Intercepted, held: &mut Held) -> Result<(), FaultError> {
        held.hold(self.before(site, owed).await);
        let chance = site.dice.stream(&format!("fault.{}.http", site.fault));
        let choice = Choice::new(self.clone(), chance);
        let judge = Box::new(move |asked: &Asked<'_>, own| choice.falls_on(asked, own));
        let plan = Plan::new(judge, whose(site, &owed.reach)?, self.fate());
        let (heartbeat, serve) = (site.heartbeat.clone(), plan.serve());
        let turning = owed.reach.within(|| Turning::begin(&owed.table, &owed.wanted, heartbeat, &serve))?;
        held.hold(plan);
        held.hold(turning.map_err(|why| FaultError(why.to_string()))?);
        Ok(())
    }

    async fn verify(&self, _: &Site, owed: &Intercepted, held: &Held) -> Effect {
        let (Some(plan), Some(before)) = (held.get::<Arc<Plan>>(), held.get::<Before>()) else {
            return Effect::Unverifiable("nothing is intercepted".to_owned());
        };
        if before.tls {
            return Effect::Unverifiable(TLS_IS_CLOSED.to_owned());
        }
        if let (Some(at), Some(path), Got::Answer { .. }) = (before.at, self.safe_path(), &before.named) {
            let got = get((owed.reach.network(), at), path, Some(plan), self.delay + PATIENCE).await;
            if let Some((right, figures)) = self.judge(&got, &before.named) {
                let figures = format!("asked: {}; {figures}", self.asked());
                return if right { Effect::Confirmed(figures) } else { Effect::Mismatch(figures) };
            }
        }
        self.by_tally(plan, before).await
    }

    async fn spared(&self, _: &Site, owed: &Intercepted, held: &Held) -> Option<Effect> {
        let (plan, before) = (held.get::<Arc<Plan>>()?, held.get::<Before>()?);
        let (at, Got::Answer { status, .. }) = (before.at?, &before.unnamed) else { return None };
        let got = get((owed.reach.network(), at), UNNAMED, Some(plan), PATIENCE).await;
        Some(match got {
            Got::Answer { status: now, whole: true, .. } if now == *status => {
                Effect::Confirmed(format!("GET {UNNAMED} was answered {now} as before"))
            }
            got => {
                Effect::Mismatch(format!("GET {UNNAMED} was answered {status} before, now {}", said(&got)))
            }
        })
    }

    fn harm(&self, site: &Site) -> String {
        let (whom, only) = traffic::between(site);
        format!("{} at {whom}{only}", self.asked())
    }

    fn mechanism(&self, owed: &Intercepted) -> Option<String> {
        let ways: Vec<TurnBy> = owed.wanted.iter().map(|wanted| wanted.by).collect();
        let way = match (ways.contains(&TurnBy::Tproxy), ways.contains(&TurnBy::Redirect)) {
            (true, true) => "tproxy for servers here, redirect for those elsewhere",
            (true, false) => "tproxy, since the server is here",
            _ => "redirect, since the server is elsewhere",
        };
        Some(format!("{way}: new connections only; TLS cannot be read and is carried as it is"))
    }
}

/// A path that nobody serves.
const UNNAMED: &str = "/brownout-looks-whether-this-is-spared";

/// What our own requests got before the harm.
struct Before {
    at: Option<SocketAddr>,
    tls: bool,
    named: Got,
    unnamed: Got,
}

impl Http {
    fn fate(&self) -> Fate {
        let mut fields = self.answer_header.0.clone();
        let body = self.body.clone().map(body::Bytes::from);
        let answer = if let Some(hang_up) = self.hang_up {
            Answer::None { reset: hang_up == HangUp::Reset }
        } else if let Some(grpc) = self.grpc_status {
            fields.push(("content-type".to_owned(), "application/grpc".to_owned()));
            fields.push(("grpc-status".to_owned(), grpc.0.to_string()));
            fields.extend(
                self.grpc_message.as_ref().map(|text| ("grpc-message".to_owned(), grpc_message(text))),
            );
            Answer::Ours { status: 200, fields, body: body::Bytes::new() }
        } else if let Some(Status(status)) = self.status {
            Answer::Ours { status, fields, body: body.unwrap_or_default() }
        } else {
            Answer::Theirs { fields, body, cut: self.truncate.map(|bytes| bytes.0) }
        };
        Fate { delay: self.delay, answer }
    }

    /// The harm and whom it falls on, in a sentence.
    fn asked(&self) -> String {
        let mut deeds = Vec::new();
        if let Some(HangUp::Close) = self.hang_up {
            deeds.push("closes the connection without an answer".to_owned());
        }
        if let Some(HangUp::Reset) = self.hang_up {
            deeds.push("resets the connection without an answer".to_owned());
        }
        deeds.extend(self.status.map(|status| format!("answers {}", status.0)));
        deeds.extend(self.grpc_status.map(|status| format!("answers {status}")));
        if self.status.is_none() {
            deeds.extend(self.body.as_ref().map(|_| "answers with another body".to_owned()));
            if !self.answer_header.0.is_empty() && self.grpc_status.is_none() {
                deeds.push("answers with other headers".to_owned());
            }
        }
        deeds.extend(self.truncate.map(|bytes| format!("cuts the answer after {bytes} of its body")));
        if !self.delay.is_zero() {
            deeds.push(format!("holds the answer for {}", say(self.delay)));
        }
        format!("{} to {}", deeds.join(" and "), self.whom())
    }

    fn whom(&self) -> String {
        let many = match (self.first, self.percent.share() < 1.0) {
            (Some(first), false) => format!("the first {first} "),
            (Some(first), true) => format!("the first {first} drawn, of {} of the ", self.percent),
            (None, true) => format!("{} of the ", self.percent),
            (None, false) => "every ".to_owned(),
        };
        let one = self.first.is_none() && self.percent.share() >= 1.0 || self.first == Some(1);
        let what = match (self.grpc_status.is_some(), one) {
            (true, true) => "gRPC call",
            (true, false) => "gRPC calls",
            (false, true) => "request",
            (false, false) => "requests",
        };
        let method = self.method.as_ref().map_or_else(String::new, |method| format!("{method} "));
        let path = match (&self.path, &self.path_regex) {
            (Some(path), _) => format!(" to {path}"),
            (None, Some(pattern)) => format!(" to {}", pattern.0),
            (None, None) => String::new(),
        };
        let with: Vec<String> =
            self.request_header.0.iter().map(|(name, pattern)| format!("{name} {}", pattern.0)).collect();
        let with = if with.is_empty() { String::new() } else { format!(" with {}", with.join(" and ")) };
        format!("{many}{method}{what}{path}{with}")
    }

    /// The path of a request that is meant and that we may make: GET changes nothing (RFC 9110, section 9.2.1).
    fn safe_path(&self) -> Option<&str> {
        let get = self.method.as_ref().is_none_or(|methods| methods.0.iter().any(|method| method == "GET"));
        if !get
            || self.path_regex.is_some()
            || !self.request_header.0.is_empty()
            || self.grpc_status.is_some()
        {
            return None;
        }
        self.path.as_ref().map_or(Some("/"), Glob::only)
    }

    /// Whether our own look at another path shows that it is spared.
    fn spares_the_unnamed(&self) -> bool {
        self.path.as_ref().is_some_and(|path| !path.fits(UNNAMED))
            || self.path_regex.as_ref().is_some_and(|pattern| !pattern.0.is_match(UNNAMED))
    }

    /// What our own requests get without the harm. Only where somebody serves, and only if we are meant. A process may
    /// listen in several places, and speak something else in some: the first that answers us is asked again.
    async fn before(&self, site: &Site, owed: &Intercepted) -> Before {
        let none = || Got::Nothing("not asked".to_owned());
        let mut before = Before { at: None, tls: false, named: none(), unnamed: none() };
        if site.from.is_some() {
            return before;
        }
        let network = owed.reach.network();
        for at in traffic::places(&owed.reach, owed.wanted.iter().map(|wanted| wanted.to)).take(MOST_ASKED) {
            let tls = speaks_tls((network, at), PATIENCE).await;
            let mut here = Before { at: Some(at), tls, named: none(), unnamed: none() };
            if let Some(path) = self.safe_path().filter(|_| !tls) {
                here.named = get((network, at), path, None, PATIENCE).await;
            }
            if self.spares_the_unnamed() && !tls {
                here.unnamed = get((network, at), UNNAMED, None, PATIENCE).await;
            }
            let asks = self.safe_path().is_some() || self.spares_the_unnamed();
            let answers = [&here.named, &here.unnamed].iter().any(|got| matches!(got, Got::Answer { .. }));
            let last = !tls && (answers || !asks);
            if last || before.at.is_none() || before.tls && !tls {
                before = here;
            }
            if last {
                break;
            }
        }
        before
    }

    /// Whether what we got is what was asked, with figures; `None` when it does not show.
    fn judge(&self, got: &Got, before: &Got) -> Option<(bool, String)> {
        let figures = format!("a GET of our own: {} before, {} now", said(before), said(got));
        let late = |after: Duration| self.delay.is_zero() || after >= self.delay;
        let right = match (self.fate().answer, got) {
            (Answer::None { reset: true }, got) => matches!(got, Got::Reset),
            (Answer::None { reset: false }, got) => matches!(got, Got::Closed),
            (Answer::Ours { status, body, .. }, Got::Answer { status: now, body: sent, after, .. }) => {
                status == *now && (body.is_empty() || body == *sent) && late(*after)
            }
            (Answer::Theirs { fields, body, cut }, Got::Answer { headers, body: sent, whole, after, .. }) => {
                if let Some(cut) = cut {
                    if *whole && (sent.len() as u64) <= cut {
                        return None; // It has no more than was to be left.
                    }
                    return Some((!whole && sent.len() as u64 == cut && late(*after), figures));
                }
                let set =
                    |(name, value): &(String, String)| headers.get(name).is_some_and(|now| now == value);
                fields.iter().all(set) && body.is_none_or(|body| body == *sent) && late(*after)
            }
            (_, Got::Closed | Got::Reset | Got::Nothing(_)) => false,
        };
        Some((right, figures))
    }

    /// By what came of the requests of others.
    async fn by_tally(&self, plan: &Plan, before: &Before) -> Effect {
        const FEW: u64 = 10;
        let tally = plan.tally();
        let now = |what: &std::sync::atomic::AtomicU64| what.load(Ordering::Relaxed);
        let until = since_boot() + self.delay + PATIENCE;
        let enough = self.first.unwrap_or(FEW).min(FEW);
        while now(&tally.done) < enough && since_boot() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let (requests, chosen, done) = (now(&tally.requests), now(&tally.chosen), now(&tally.done));
        let held =
            tally.held.median().map_or_else(String::new, |held| format!(", held for {} (median)", say(held)));
        let figures = format!(
            "asked: {}; of {requests} requests that came by, {chosen} were chosen, and it was done to {done}{held}",
            self.asked()
        );
        if done > 0 {
            return Effect::Confirmed(figures);
        }
        let (tls, other) = (now(&tally.tls), now(&tally.other));
        Effect::Unverifiable(if requests == 0 && (tls > 0 || other > 0) {
            format!(
                "no HTTP came by: {tls} connections were TLS, which only its two ends can read, {other} something else"
            )
        } else if now(&tally.unfit) > 0 {
            format!("{figures}; their answers had nothing to change")
        } else if let Got::Nothing(why) = &before.named {
            let ours = if before.at.is_some() && why != "not asked" {
                format!("; a GET of our own got {why}")
            } else {
                String::new()
            };
            format!("{figures}{ours}")
        } else {
            figures
        })
    }
}

/// Where HTTP is served: of a process, the TCP ports on which it listens.
fn served(site: &Site, reach: &Reach) -> Result<Vec<Endpoint>, Refusal> {
    const REMEDY: &str = "give it `to = { address = \"10.0.0.7:8080\" }` or `{ port = 8080 }`";
    let mut endpoints = reach.endpoints().to_vec();
    if traffic::is_here(site) {
        let listeners = reach.within(socket::listeners).unwrap_or_default();
        endpoints.retain(|endpoint| {
            listeners.iter().any(|l| l.protocol == Protocol::Tcp && Some(l.at.port()) == endpoint.port)
        });
    }
    if endpoints.is_empty() || endpoints.iter().any(|endpoint| endpoint.port.is_none()) {
        return Err(site.refuse("it does not say on which TCP port HTTP is served".to_owned(), REMEDY));
    }
    Ok(endpoints)
}

fn said(got: &Got) -> String {
    match got {
        Got::Answer { status, body, whole, after, .. } => {
            let end = if *whole { "" } else { ", then cut" };
            format!("{status} with {} bytes after {}{end}", body.len(), say(*after))
        }
        Got::Closed => "closed without an answer".to_owned(),
        Got::Reset => "reset without an answer".to_owned(),
        Got::Nothing(why) => why.clone(),
    }
}

/// Which connections are brought to us, and how. What goes to this host is taken where it comes in, from other
/// hosts and from this one; what goes elsewhere, where it is sent.
fn wanted(site: &Site, endpoints: &[Endpoint]) -> Vec<Wanted> {
    let from = match &site.from {
        Some(from) if from.processes.is_empty() => from.endpoints.as_slice(),
        _ => &[ANYWHERE],
    };
    let here = traffic::is_here(site);
    let mut wanted = Vec::new();
    for to in endpoints {
        let (near, far) = match to.address {
            _ if here => (true, false),
            Some(address) => {
                let near = address.is_loopback() || socket::is_ours(address);
                (near, !near)
            }
            None => (true, true),
        };
        let ways = [(near, TurnBy::Tproxy), (far, TurnBy::Redirect)];
        for (_, by) in ways.into_iter().filter(|(wanted, _)| *wanted) {
            wanted.extend(from.iter().map(|from| Wanted { by, from: *from, to: *to }));
        }
    }
    wanted
}

/// Requests of our own go to so many places at the most.
const MOST_ASKED: usize = 4;

/// Tells the connections of some processes, or of those in one network, from those of others.
fn whose(site: &Site, reach: &Reach) -> Result<Option<Whose>, FaultError> {
    let anybody_here = traffic::clients(site) == Clients::Here;
    let processes: Vec<Identity> =
        site.from.iter().flat_map(|from| &from.processes).map(|process| process.identity().clone()).collect();
    if processes.is_empty() && !anybody_here {
        return Ok(None);
    }
    let owners = reach.within(Owners::open)?.map_err(|why| FaultError(why.to_string()))?;
    let owners = Mutex::new(owners);
    Ok(Some(Box::new(move |client, to| {
        let owners = owners.lock().unwrap_or_else(PoisonError::into_inner);
        owners
            .inode(Protocol::Tcp, client, to)
            .is_some_and(|inode| anybody_here || socket::is_of(inode, &processes))
    })))
}

impl Owed for Intercepted {
    /// Nobody but its holder can take it away, and it does so before this is called; after its death the
    /// kernel does.
    async fn undo(&self) -> Result<(), UndoError> {
        Ok(())
    }

    async fn remains(&self) -> Result<bool, UndoError> {
        self.reach.remains(|| rules::leased(&self.table).map_err(|why| UndoError(why.to_string()))).await
    }

    fn claims(&self, host: &str) -> Vec<Claim> {
        self.reach.claims(host)
    }

    fn tier(&self) -> Tier {
        Tier::Kernel
    }

    fn by_hand(&self) -> String {
        self.reach.by_hand(&format_args!("rule table {}", self.table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::{Fields, Mistakes, Sources};

    /// The fault that a few lines of TOML are.
    pub(super) fn http(toml: &str) -> Http {
        let (mut sources, mut mistakes) = (Sources::default(), Mistakes::default());
        let node = sources.parse("fault", toml, &mut mistakes);
        let mut fields = Fields::open(&node, "[fault.x.http]", &mut mistakes).unwrap();
        Http::take(&mut fields, &mut mistakes).unwrap()
    }

    #[test]
    fn the_harm_is_told_in_a_sentence() {
        for (toml, told) in [
            ("status = 503", "answers 503 to every request"),
            (
                "status = 503\nfirst = 3\npath = '/a/*'\nmethod = 'POST'",
                "answers 503 to the first 3 POST requests to /a/*",
            ),
            ("status = 429\nfirst = 1", "answers 429 to the first 1 request"),
            (
                "hang_up = 'reset'\npercent = '30%'",
                "resets the connection without an answer to 30% of the requests",
            ),
            (
                "delay = '2s'\ntruncate = '1KiB'",
                "cuts the answer after 1 KiB of its body and holds the answer for 2 s to every request",
            ),
            (
                "grpc_status = 'UNAVAILABLE'\npath = '/a.B/C'",
                "answers UNAVAILABLE to every gRPC call to /a.B/C",
            ),
            (
                "body = 'x'\nrequest_header = { x-tenant = '^a$' }",
                "answers with another body to every request with x-tenant ^a$",
            ),
        ] {
            assert_eq!(http(toml).asked(), told);
        }
    }

    #[test]
    fn only_a_get_of_one_path_is_ours_to_make() {
        let path = |toml: &str| http(toml).safe_path().map(str::to_owned);
        assert_eq!(path("status = 503"), Some("/".to_owned()));
        assert_eq!(path("status = 503\npath = '/a'\nmethod = ['GET', 'POST']"), Some("/a".to_owned()));
        for toml in [
            "status = 503\npath = '/a*'",
            "status = 503\nmethod = 'POST'",
            "status = 503\npath_regex = '^/a$'",
            "status = 503\nrequest_header = { a = 'b' }",
            "grpc_status = 14\npath = '/a.B/C'",
        ] {
            assert_eq!(path(toml), None, "{toml}");
        }
    }

    #[test]
    fn what_we_got_is_held_against_what_was_asked() {
        let answer = |status, body: &str, whole| Got::Answer {
            status,
            headers: hyper::HeaderMap::new(),
            body: body.into(),
            whole,
            after: Duration::from_millis(100),
        };
        let right =
            |toml: &str, got: &Got| http(toml).judge(got, &answer(200, "hello", true)).map(|judged| judged.0);
        assert_eq!(right("status = 503", &answer(503, "", true)), Some(true));
        assert_eq!(right("status = 503", &answer(200, "", true)), Some(false));
        assert_eq!(right("status = 503\nbody = 'a'", &answer(503, "b", true)), Some(false));
        assert_eq!(right("hang_up = 'reset'", &Got::Reset), Some(true));
        assert_eq!(right("hang_up = 'close'", &Got::Reset), Some(false));
        assert_eq!(right("truncate = '2B'", &answer(200, "he", false)), Some(true));
        assert_eq!(right("truncate = '2B'", &answer(200, "hello", true)), Some(false));
        assert_eq!(right("truncate = '9B'", &answer(200, "hello", true)), None);
        assert_eq!(right("delay = '100ms'", &answer(200, "hello", true)), Some(true));
        assert_eq!(right("delay = '101ms'", &answer(200, "hello", true)), Some(false));
        assert_eq!(right("body = 'x'", &answer(200, "x", true)), Some(true));
    }
}
