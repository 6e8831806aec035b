//! Connections that were made to somebody else and come to us: the rules that bring them, the sockets that
//! wait for them, the lease that ends both, and how it all ends without cutting what is under way.
//!
//! When it is over no new connection comes, and those that came go on: a reply that is on its way must
//! arrive. What is still open when the process ends is closed with it: see [`settle`].

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::pin::Pin;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::Heartbeat;
use super::lease::{Lease, SILENCE};
use super::rules::{OURS, RulesError, Table, Turn, TurnBy};
use crate::host::socket::{Namespace, Protocol};
use crate::host::target::Endpoint;

/// Connections at once. More wait in the kernel, as many as `BACKLOG`.
const MOST_CONNECTIONS: usize = 8192;
const BACKLOG: u32 = 4096;
/// Two descriptors a connection, and some for everything else.
const DESCRIPTORS: u64 = 2 * MOST_CONNECTIONS as u64 + 512;
/// Threads that carry bytes.
const WORKERS: usize = 2;
/// After the rules are off, a connection made just before may still be on its way to us.
const LAST_ARRIVAL: Duration = Duration::from_millis(200);

/// Why connections cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TurnError {
    /// The rules.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// Another one of ours has them.
    #[error("connections to {0} already come to another fault: let one begin after the other has ended")]
    Taken(Endpoint),
    /// A socket or a thread.
    #[error("{0}: {1}")]
    Refused(&'static str, io::Error),
}

fn refused(doing: &'static str) -> impl FnOnce(io::Error) -> TurnError {
    move |why| TurnError::Refused(doing, why)
}

/// Connections that are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Wanted {
    /// How they are brought.
    pub by: TurnBy,
    /// Whence.
    pub from: Endpoint,
    /// Whither.
    pub to: Endpoint,
}

impl Wanted {
    /// Whether one connection can be both.
    fn meets(&self, other: &Self) -> bool {
        fn both<T: PartialEq + Copy>(one: Option<T>, other: Option<T>) -> bool {
            one.is_none() || other.is_none() || one == other
        }
        let meet =
            |one: Endpoint, other: Endpoint| both(one.address, other.address) && both(one.port, other.port);
        self.by == other.by && meet(self.from, other.from) && meet(self.to, other.to)
    }
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The harm is done.
    Live,
    /// It is over: what comes is passed on as it is.
    Over,
    /// The process is about to end: only what is under way goes on.
    Leaving,
}

/// How much is open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Load {
    connections: usize,
    /// What must not be cut: questions that are being answered.
    busy: usize,
}

/// One connection that came to us.
#[derive(Debug)]
pub struct Turned {
    /// To whoever made it.
    pub client: TcpStream,
    /// Its address.
    pub from: SocketAddr,
    /// Where it was going.
    pub to: SocketAddr,
    /// How far it has come.
    pub moment: Moment,
    above: Option<RawFd>,
}

impl Turned {
    /// A connection of ours to where it was going, which no rule of ours turns.
    ///
    /// # Errors
    /// As connecting says.
    pub async fn reach(&self) -> io::Result<TcpStream> {
        let socket = if self.to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        setsockopt(&socket, sockopt::Mark, &OURS)?;
        let stream = socket.connect(self.to).await?;
        stream.set_nodelay(true)?;
        raised(stream, self.above)
    }
}

/// Tells how far it has come, and takes note of what is under way.
#[derive(Debug, Clone)]
pub struct Moment {
    phase: watch::Receiver<Phase>,
    heartbeat: Heartbeat,
    load: watch::Sender<Load>,
}

impl Moment {
    /// Whether harm may be done now.
    #[must_use]
    pub fn live(&self) -> bool {
        *self.phase.borrow() == Phase::Live && self.heartbeat.silence() < SILENCE
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        *self.phase.borrow() >= Phase::Over
    }

    /// Returns when it has come so far.
    pub async fn reaches(&mut self, phase: Phase) {
        if self.phase.wait_for(|now| *now >= phase).await.is_err() {
            std::future::pending::<()>().await; // Nobody is left to say so: the process ends.
        }
    }

    /// Waits so long, or until no harm may be done any more; how long it was.
    pub async fn wait(&mut self, time: Duration) -> Duration {
        /// A judge who hangs is noticed so late.
        const LOOK: Duration = Duration::from_millis(100);
        let begun = tokio::time::Instant::now();
        while self.live() && begun.elapsed() < time {
            let nap = time.saturating_sub(begun.elapsed()).min(LOOK);
            tokio::select! {
                () = tokio::time::sleep(nap) => {}
                () = self.reaches(Phase::Over) => {}
            }
        }
        begun.elapsed()
    }

    /// Something is under way until this is dropped.
    #[must_use]
    pub fn busy(&self) -> Busy {
        self.load.send_modify(|load| load.busy += 1);
        Busy(self.load.clone())
    }
}

/// Something that must not be cut.
#[derive(Debug)]
pub struct Busy(watch::Sender<Load>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.send_modify(|load| load.busy = load.busy.saturating_sub(1));
    }
}

struct Open(watch::Sender<Load>);

impl Open {
    fn new(load: &watch::Sender<Load>) -> Self {
        load.send_modify(|load| load.connections += 1);
        Self(load.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|load| load.connections = load.connections.saturating_sub(1));
    }
}

/// What is done with each connection, to its end.
pub type Serve = Arc<dyn Fn(Turned) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Connections being turned to us. Dropping it ends that: see the module.
#[derive(Debug)]
pub struct Turning {
    taken: Taken,
    workers: Option<Workers>,
    lease: Option<Lease>,
    phase: watch::Sender<Phase>,
    translated: bool,
}

impl Turning {
    /// Begins, in the network namespace of this thread.
    ///
    /// # Errors
    /// When it cannot; nothing is left then.
    pub fn begin(
        table: &str,
        wanted: &[Wanted],
        heartbeat: Heartbeat,
        serve: &Serve,
    ) -> Result<Self, TurnError> {
        let taken = Taken::claim(wanted)?;
        let (phase, load) = (watch::Sender::new(Phase::Live), watch::Sender::new(Load::default()));
        let moment = Moment { phase: phase.subscribe(), heartbeat: heartbeat.clone(), load: load.clone() };
        let workers = Workers::start(phase.clone(), &load)?;
        let listeners = {
            let _inside = workers.runtime.enter();
            listeners().map_err(refused("listening for the connections that are turned"))?
        };
        let turns: Vec<Turn> = wanted
            .iter()
            .flat_map(|wanted| listeners.iter().filter_map(move |(_, at)| turn(wanted, *at)))
            .collect();
        let table = Table::turning(table, &turns)?;
        let translated = wanted.iter().any(|wanted| wanted.by == TurnBy::Redirect);
        let above = translated.then(|| table.descriptor());
        for (listener, at) in listeners {
            workers.runtime.spawn(accept(listener, at, above, moment.clone(), serve.clone()));
        }
        let lease =
            Lease::keep(table, heartbeat).map_err(refused("starting the thread that renews the lease"))?;
        Ok(Self { taken, workers: Some(workers), lease: Some(lease), phase, translated })
    }
}

impl Drop for Turning {
    /// The harm ends here; what is under way ends with the workers, later.
    fn drop(&mut self) {
        let table = self.lease.take().map(Lease::end);
        if let Some(table) = &table {
            let _ = table.expire(); // The lease runs out by itself if this fails.
        }
        self.phase.send_replace(Phase::Over);
        self.taken.leave();
        if let Some(workers) = self.workers.take() {
            // Without translation the connections need no rules any more.
            workers.drain(table.filter(|_| self.translated));
        }
    }
}

/// What some rules of ours turn. A connection comes to one of us only: the last rule wins, and the other fault would
/// do nothing, unnoticed.
#[derive(Debug)]
struct Taken(Vec<(Namespace, Wanted)>);

/// In which network, and what.
static TAKEN: Mutex<Vec<(Namespace, Wanted)>> = Mutex::new(Vec::new());

impl Taken {
    fn claim(wanted: &[Wanted]) -> Result<Self, TurnError> {
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let here = Namespace::ours().map_err(refused("looking where we are"))?;
        let meets = |new: &Wanted| taken.iter().any(|(there, old)| *there == here && new.meets(old));
        if let Some(clash) = wanted.iter().find(|new| meets(new)) {
            return Err(TurnError::Taken(clash.to));
        }
        let ours: Vec<_> = wanted.iter().map(|wanted| (here, *wanted)).collect();
        taken.extend_from_slice(&ours);
        Ok(Self(ours))
    }

    fn leave(&mut self) {
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        for ours in self.0.drain(..) {
            if let Some(at) = taken.iter().position(|one| *one == ours) {
                taken.swap_remove(at);
            }
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The threads that carry bytes, and one that ends them: a runtime may not be dropped where others run.
#[derive(Debug)]
struct Workers {
    runtime: Handle,
    phase: watch::Sender<Phase>,
    end: Sender<Option<Table>>,
    thread: JoinHandle<()>,
}

impl Workers {
    /// Starts them, in the namespace of this thread.
    fn start(phase: watch::Sender<Phase>, load: &watch::Sender<Load>) -> Result<Self, TurnError> {
        const STARTING: &str = "starting the threads that carry them";
        let (end, ended) = channel::<Option<Table>>();
        let (tell, told) = channel();
        let moments = (phase.subscribe(), load.subscribe());
        let work = move || {
            let descriptors = Descriptors::raise();
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(WORKERS)
                .thread_name("turn")
                .enable_all()
                .build();
            let _ =
                tell.send(runtime.as_ref().map(|runtime| runtime.handle().clone()).map_err(io::Error::kind));
            let Ok(runtime) = runtime else { return };
            if let Ok(table) = ended.recv() {
                runtime.block_on(drained(moments));
                runtime.shutdown_timeout(Duration::from_millis(100));
                drop(table);
            }
            drop(descriptors);
        };
        let thread =
            std::thread::Builder::new().name("turns".to_owned()).spawn(work).map_err(refused(STARTING))?;
        let runtime = told.recv().unwrap_or(Err(io::ErrorKind::Other));
        let runtime = runtime.map_err(|kind| refused(STARTING)(kind.into()))?;
        Ok(Self { runtime, phase, end, thread })
    }

    /// Lets them end what is under way; the table stays until then.
    fn drain(self, table: Option<Table>) {
        let _ = self.end.send(table);
        tails().push(Tail { phase: self.phase, thread: self.thread });
    }
}

/// Returns when nothing is open any more, or the process is about to end and nothing is under way.
async fn drained((mut phase, load): (watch::Receiver<Phase>, watch::Receiver<Load>)) {
    tokio::time::sleep(LAST_ARRIVAL).await;
    let (mut all, mut busy) = (load.clone(), load);
    let left = async {
        let _ = phase.wait_for(|phase| *phase == Phase::Leaving).await;
        let _ = busy.wait_for(|load| load.busy == 0).await;
    };
    tokio::select! {
        _ = all.wait_for(|load| load.connections == 0) => {}
        () = left => {}
    }
}

/// The rule for a listener; `None` when it is of another IP version.
fn turn(wanted: &Wanted, at: SocketAddr) -> Option<Turn> {
    let fits = |end: &Endpoint| end.address.is_none_or(|address| address.is_ipv4() == at.is_ipv4());
    let Wanted { by, from, to } = *wanted;
    (fits(&from) && fits(&to)).then_some(Turn { by, protocol: Protocol::Tcp, from, to, at })
}

/// One on each loopback address; a host may have no IPv6.
fn listeners() -> io::Result<Vec<(TcpListener, SocketAddr)>> {
    let four = listener(Ipv4Addr::LOCALHOST.into())?;
    Ok([Some(four), listener(Ipv6Addr::LOCALHOST.into()).ok()].into_iter().flatten().collect())
}

fn listener(address: IpAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    setsockopt(&socket, sockopt::IpTransparent, &true)?;
    socket.bind(SocketAddr::new(address, 0))?;
    let listener = socket.listen(BACKLOG)?;
    let at = listener.local_addr()?;
    Ok((listener, at))
}

async fn accept(listener: TcpListener, at: SocketAddr, above: Option<RawFd>, moment: Moment, serve: Serve) {
    let mut load = moment.load.subscribe();
    loop {
        let room = load.wait_for(|load| load.connections < MOST_CONNECTIONS).await.is_ok();
        let accepted = listener.accept().await;
        let Ok((client, from)) = accepted else {
            if !room {
                return;
            }
            // Out of descriptors, most likely: some will be free soon.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        // Who comes to us directly was not going anywhere.
        let Some(to) = destination(&client, at) else { continue };
        let Ok(client) = raised(client, above) else { continue };
        let _ = client.set_nodelay(true);
        let open = Open::new(&moment.load);
        let served = serve(Turned { client, from, to, moment: moment.clone(), above });
        tokio::spawn(async move {
            served.await;
            drop(open);
        });
    }
}

/// Where a connection was going: of one for which we stand in it is our end of it, of a redirected one the
/// kernel remembers it (SO_ORIGINAL_DST, include/uapi/linux/netfilter_ipv4.h).
fn destination(client: &TcpStream, at: SocketAddr) -> Option<SocketAddr> {
    let near = client.local_addr().ok()?;
    if near != at {
        return Some(near);
    }
    let original = if at.is_ipv4() {
        let found = nix::sys::socket::getsockopt(client, sockopt::OriginalDst).ok()?;
        SocketAddr::from((u32::from_be(found.sin_addr.s_addr).to_be_bytes(), u16::from_be(found.sin_port)))
    } else {
        let found = nix::sys::socket::getsockopt(client, sockopt::Ip6tOriginalDst).ok()?;
        SocketAddr::from((found.sin6_addr.s6_addr, u16::from_be(found.sin6_port)))
    };
    (original != at).then_some(original)
}

/// The same connection under a number above that of the table's socket. When a process dies the kernel
/// closes its highest descriptors first: our peers must hear that we are gone while what they hear is still
/// translated for them, or they would wait for ever.
fn raised(stream: TcpStream, above: Option<RawFd>) -> io::Result<TcpStream> {
    let Some(above) = above.filter(|above| stream.as_raw_fd() < *above) else { return Ok(stream) };
    let stream = stream.into_std()?;
    let higher = fcntl(&stream, FcntlArg::F_DUPFD_CLOEXEC(above + 1))?;
    // SAFETY: a descriptor that fcntl(2) has just made, and that nobody else knows of.
    let higher = unsafe { OwnedFd::from_raw_fd(higher) };
    TcpStream::from_std(std::net::TcpStream::from(higher))
}

/// Our own limit of open files, raised as far as it may be, and put back in the end: what is started meanwhile
/// inherits it.
#[derive(Debug)]
struct Descriptors(u64);

impl Descriptors {
    fn raise() -> Option<Self> {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
        let wanted = hard.min(DESCRIPTORS);
        let raised = soft < wanted && setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_ok();
        raised.then_some(Self(soft))
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, self.0, hard);
        }
    }
}

/// What goes on after the end.
struct Tail {
    phase: watch::Sender<Phase>,
    thread: JoinHandle<()>,
}

static TAILS: Mutex<Vec<Tail>> = Mutex::new(Vec::new());

fn tails() -> std::sync::MutexGuard<'static, Vec<Tail>> {
    TAILS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// To be called before the process ends: connections that came to us and are idle are closed, and questions that
/// are being answered get their answers, for so long at most. Returns at once when nothing was turned.
pub fn settle(within: Duration) {
    let tails = std::mem::take(&mut *tails());
    for tail in &tails {
        tail.phase.send_replace(Phase::Leaving);
    }
    let begun = Instant::now();
    while begun.elapsed() < within && tails.iter().any(|tail| !tail.thread.is_finished()) {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_come_to_one_of_us_only() {
        let end = |text: &str| Endpoint::from(text.parse::<SocketAddr>().unwrap());
        let to = |to| Wanted { by: TurnBy::Tproxy, from: Endpoint { address: None, port: None }, to };
        let (one, other) = (to(end("192.0.2.9:8080")), to(end("192.0.2.9:8081")));
        let port = to(Endpoint { address: None, port: Some(8080) });
        let elsewhere = Wanted { by: TurnBy::Redirect, ..one };
        let taken = Taken::claim(&[one]).unwrap();
        assert!(Taken::claim(&[other, elsewhere]).is_ok());
        for clash in [one, port] {
            let why = Taken::claim(&[clash]).unwrap_err().to_string();
            assert!(why.contains("already come to another fault"), "{why}");
        }
        drop(taken);
        assert!(Taken::claim(&[port]).is_ok());
    }
}
