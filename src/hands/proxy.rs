//! A TCP proxy that forwards late: what a user without rights can have. It reaches only clients that are
//! pointed at it, and it dies with us: its connections close.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::Heartbeat;
use super::queue::Tally;

/// Bytes on their way in one direction of one connection; then its sender must wait.
const MOST_BYTES: usize = 16 << 20;
const CHUNK: usize = 64 << 10;
/// Connections served at once; the kernel's backlog holds some more.
const MOST_CONNECTIONS: usize = 4096;
/// Whoever decides may be silent for so long; then nothing is delayed any more.
const SILENCE: Duration = Duration::from_secs(1);

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the client to the target.
    There,
    /// From the target to the client.
    Back,
}

/// Says again and again how long the next bytes wait.
pub type Waits = Box<dyn FnMut() -> Duration + Send>;
/// Makes that for one direction of each new connection.
pub type MakeWaits = Box<dyn Fn(Way) -> Waits + Send + Sync>;

/// A proxy that listens. Dropping it closes it and its connections.
#[derive(Debug)]
pub struct Proxy {
    task: JoinHandle<()>,
    tally: Arc<Tally>,
}

impl Proxy {
    /// Listens, in the network namespace of this thread, and forwards to `to`.
    ///
    /// # Errors
    /// When it cannot listen there.
    pub fn listen(
        at: SocketAddr,
        to: SocketAddr,
        waits: MakeWaits,
        heartbeat: Heartbeat,
    ) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(at)?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let tally = Arc::new(Tally::default());
        let ours = Arc::new(Route { to, waits, heartbeat, tally: Arc::clone(&tally) });
        Ok(Self { task: tokio::spawn(serve(listener, ours)), tally })
    }

    /// What was held until now.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Route {
    to: SocketAddr,
    waits: MakeWaits,
    heartbeat: Heartbeat,
    tally: Arc<Tally>,
}

impl Route {
    /// One direction's waits, which end when nobody decides any more.
    fn waits(self: &Arc<Self>, way: Way) -> Waits {
        let (route, mut waits) = (Arc::clone(self), (self.waits)(way));
        Box::new(move || if route.heartbeat.silence() < SILENCE { waits() } else { Duration::ZERO })
    }
}

async fn serve(listener: TcpListener, route: Arc<Route>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MOST_CONNECTIONS => match accepted {
                Ok((client, _)) => drop(connections.spawn(carry(client, Arc::clone(&route)))),
                // Out of descriptors, most likely: some will be free soon.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One connection, to its end. The handshake is a round trip too, and is paid before the target hears of
/// it; a target that refuses is shown to the client as a reset.
async fn carry(client: TcpStream, route: Arc<Route>) {
    let (mut there, mut back) = (route.waits(Way::There), route.waits(Way::Back));
    tokio::time::sleep(there() + back()).await;
    let Ok(target) = TcpStream::connect(route.to).await else {
        let _ = client.set_zero_linger();
        return;
    };
    let _ = (client.set_nodelay(true), target.set_nodelay(true));
    let (from_client, mut to_client) = client.into_split();
    let (from_target, mut to_target) = target.into_split();
    let both = tokio::try_join!(
        pass(from_client, &mut to_target, there, &route.tally),
        pass(from_target, &mut to_client, back, &route.tally),
    );
    if both.is_err() {
        // One side was reset: so is the other.
        let _ = to_client.as_ref().set_zero_linger();
        let _ = to_target.as_ref().set_zero_linger();
    }
}

/// Bytes with the time they came and the time they are due; none is the end.
type Late = (Instant, Instant, Vec<u8>, Option<OwnedSemaphorePermit>);

/// Passes one direction on, late, until its end, which is passed on as well.
async fn pass(from: OwnedReadHalf, to: &mut OwnedWriteHalf, waits: Waits, tally: &Tally) -> io::Result<()> {
    // A chunk holds at least one byte of the room, so the channel needs no bound of its own.
    let (send, receive) = mpsc::unbounded_channel();
    let reading = read(from, send, waits);
    let writing = write(receive, to, tally);
    tokio::try_join!(reading, writing).map(drop)
}

async fn read(
    mut from: OwnedReadHalf,
    send: mpsc::UnboundedSender<Late>,
    mut waits: Waits,
) -> io::Result<()> {
    let room = Arc::new(Semaphore::new(MOST_BYTES));
    let mut last = Instant::now();
    let mut buffer = vec![0; CHUNK];
    loop {
        let all = room.clone().acquire_many_owned(CHUNK as u32).await.map_err(io::Error::other)?;
        let read = from.read(&mut buffer).await;
        let now = Instant::now();
        // Never before what came earlier.
        last = last.max(now + waits());
        let Ok(n) = read else {
            tokio::time::sleep_until(last).await;
            return read.map(drop);
        };
        let mut all = all;
        let used = all.split(n);
        drop(all);
        let _ = send.send((now, last, buffer[..n].to_vec(), used));
        if n == 0 {
            return Ok(());
        }
    }
}

async fn write(
    mut receive: mpsc::UnboundedReceiver<Late>,
    to: &mut OwnedWriteHalf,
    tally: &Tally,
) -> io::Result<()> {
    while let Some((came, due, bytes, room)) = receive.recv().await {
        tokio::time::sleep_until(due).await;
        if bytes.is_empty() {
            return to.shutdown().await;
        }
        to.write_all(&bytes).await?;
        tally.add([came.elapsed()]);
        drop(room);
    }
    Ok(())
}
