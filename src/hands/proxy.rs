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
        for end in [to_client, to_target] {
            let _ = end.as_ref().set_zero_linger();
            end.forget(); // or it would say a proper goodbye first
        }
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
        tally.add(&[came.elapsed()]);
        drop(room);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_millis(60);
    /// A busy machine is late; it is never early.
    const NOISE: Duration = Duration::from_millis(400);

    struct World {
        proxy: Option<Proxy>,
        at: SocketAddr,
        target: TcpListener,
        heartbeat: Heartbeat,
    }

    impl World {
        /// A proxy that delays what goes there.
        async fn new() -> Self {
            let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
            let waits: MakeWaits =
                Box::new(|way| Box::new(move || if way == Way::There { DELAY } else { Duration::ZERO }));
            let (to, heartbeat) = (target.local_addr().unwrap(), Heartbeat::default());
            let proxy = Proxy::listen(free, to, waits, heartbeat.clone()).unwrap();
            Self { proxy: Some(proxy), at: free, target, heartbeat }
        }

        async fn connect(&self) -> (TcpStream, TcpStream) {
            let client = TcpStream::connect(self.at).await.unwrap();
            (client, self.target.accept().await.unwrap().0)
        }
    }

    #[tokio::test]
    async fn bytes_arrive_late_in_the_way_that_is_delayed_and_at_once_in_the_other() {
        let world = World::new().await;
        let begun = Instant::now();
        let (mut client, mut server) = world.connect().await;
        assert!(begun.elapsed() >= DELAY, "the handshake pays");
        for _ in 0..3 {
            let begun = Instant::now();
            client.write_all(b"ping").await.unwrap();
            server.read_exact(&mut [0; 4]).await.unwrap();
            assert!(begun.elapsed() >= DELAY && begun.elapsed() < DELAY + NOISE);
        }
        assert!(world.proxy.as_ref().unwrap().tally().median().unwrap() >= DELAY);
        let begun = Instant::now();
        server.write_all(b"pong").await.unwrap();
        client.read_exact(&mut [0; 4]).await.unwrap();
        assert!(begun.elapsed() < NOISE);
    }

    #[tokio::test]
    async fn bulk_keeps_flowing_whole_and_a_half_close_is_passed_on() {
        const SIZE: usize = 8 << 20;
        let world = World::new().await;
        let (mut client, mut server) = world.connect().await;
        let sent: Vec<u8> = (0..SIZE).map(|n| (n / 7) as u8).collect();
        let wanted = sent.clone();
        let begun = Instant::now();
        let sending = tokio::spawn(async move {
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
            client
        });
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.unwrap();
        assert!(got == wanted, "{} of {SIZE} bytes, or others", got.len());
        // More than a hundred chunks: one after the other they would take the delay each.
        assert!(begun.elapsed() < DELAY * 50, "{:?}", begun.elapsed());
        // The other way is still open.
        let mut client = sending.await.unwrap();
        server.write_all(b"late").await.unwrap();
        drop(server);
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"late");
    }

    #[tokio::test]
    async fn a_reset_and_a_refusal_are_passed_on_as_resets() {
        let world = World::new().await;
        let (client, mut server) = world.connect().await;
        client.set_zero_linger().unwrap();
        drop(client);
        let reset = server.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(reset.kind(), io::ErrorKind::ConnectionReset);

        let World { at, target, proxy, .. } = world;
        drop(target);
        let mut client = TcpStream::connect(at).await.unwrap();
        let refused = client.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionReset);
        drop(proxy);
    }

    #[tokio::test]
    async fn its_end_closes_its_connections_and_nobody_listens_any_more() {
        let mut world = World::new().await;
        let (mut client, mut server) = world.connect().await;
        world.proxy = None;
        assert!(matches!(server.read(&mut [0; 1]).await, Ok(0) | Err(_)));
        assert!(matches!(client.read(&mut [0; 1]).await, Ok(0) | Err(_)));
        assert!(TcpStream::connect(world.at).await.is_err());
    }

    #[tokio::test]
    async fn nothing_is_delayed_when_nobody_decides_any_more() {
        let world = World::new().await;
        let (mut client, mut server) = world.connect().await;
        tokio::time::sleep(SILENCE + Duration::from_millis(20)).await;
        let mut shortest = DELAY;
        for _ in 0..10 {
            let begun = Instant::now();
            client.write_all(b"ping").await.unwrap();
            server.read_exact(&mut [0; 4]).await.unwrap();
            shortest = shortest.min(begun.elapsed());
        }
        assert!(shortest < DELAY / 2, "{shortest:?}");
        world.heartbeat.beat();
        let begun = Instant::now();
        client.write_all(b"ping").await.unwrap();
        server.read_exact(&mut [0; 4]).await.unwrap();
        assert!(begun.elapsed() >= DELAY, "it beats again");
    }
}
