//! Whether the figures of looks are true: `cargo bench --bench truth`.
//!
//! First a server whose answers take 50 to 150 ms, evenly spread, and which is stopped for 1.4 s (SIGSTOP): the quantiles
//! that were seen, beside those that follow from this. Then what a look adds of its own to what the kernel saw: from the moment
//! when a datagram was received (SO_TIMESTAMPNS, socket(7)) to that at which its answer was sent, beside what the look took; on an idle
//! machine, and with processors that are busy for four fifths of the time.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on should say so and stop")]

mod looking;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::convert::Infallible;
use std::io::IoSliceMut;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use brownout::base::{Clock, Dice};
use brownout::host::process::Process;
use brownout::slo::Outcome;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use looking::{Looks, Server, count, load, quantile, runtime, sorted};
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt};
use nix::time::{ClockId, clock_gettime};
use rand::Rng as _;

const RATE: f64 = 2000.0;
const LENGTH: Duration = Duration::from_secs(20);
/// The server is stopped then, for so long.
const STALL: (Duration, Duration) = (Duration::from_secs(8), Duration::from_millis(1400));
/// An answer takes from so long, to so long more.
const WAIT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(100));
const QUANTILES: [f64; 3] = [0.5, 0.99, 0.999];

/// Wakes those who wait, finer than the runtime's timer does.
fn alarm() -> Sender<(Instant, tokio::sync::oneshot::Sender<()>)> {
    let (ask, asked) = channel::<(Instant, tokio::sync::oneshot::Sender<()>)>();
    std::thread::spawn(move || {
        let (mut due, mut wakers) = (BinaryHeap::new(), std::collections::HashMap::new());
        for nth in 0_u64.. {
            let wait =
                due.peek().map_or(Duration::from_secs(9), |Reverse((at, _)): &Reverse<(Instant, u64)>| {
                    at.saturating_duration_since(Instant::now())
                });
            match asked.recv_timeout(wait) {
                Ok((at, waker)) => {
                    due.push(Reverse((at, nth)));
                    wakers.insert(nth, waker);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            while let Some(Reverse((at, nth))) = due.peek().copied()
                && at <= Instant::now()
            {
                due.pop();
                let _ = wakers.remove(&nth).unwrap().send(());
            }
        }
    });
    ask
}

/// Answers late, having printed its port.
async fn serve() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(4096).unwrap();
    println!("{}", listener.local_addr().unwrap().port());
    let (alarm, dice) = (alarm(), Arc::new(Mutex::new(Dice::new(1).stream("waits"))));
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (alarm, dice) = (alarm.clone(), Arc::clone(&dice));
        let service = service_fn(move |_: Request<Incoming>| {
            let until = Instant::now() + WAIT.0 + WAIT.1.mul_f64(dice.lock().unwrap().random());
            let (waker, woken) = tokio::sync::oneshot::channel();
            alarm.send((until, waker)).unwrap();
            async {
                woken.await.unwrap();
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"ok"))))
            }
        });
        tokio::spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
        );
    }
}

/// What looks on an even grid must take, when the server is stopped from `begin` to `end`: a look whose answer would fall
/// into the stall has it at its end, one that begins in the stall is heard of at its end.
fn meant(looks: usize, (begin, end): (Duration, Duration)) -> Vec<Duration> {
    const STRATA: u32 = 50;
    let mut all: Vec<Duration> = (0..looks)
        .flat_map(|nth| {
            let intended = Duration::from_secs_f64(nth as f64 / RATE);
            (0..STRATA).map(move |stratum| {
                let wait = WAIT.0 + WAIT.1.mul_f64((f64::from(stratum) + 0.5) / f64::from(STRATA));
                let heard = if intended >= begin && intended < end { end } else { intended };
                let answered = heard + wait;
                let answered = if answered >= begin && answered < end { end } else { answered };
                answered.saturating_sub(intended)
            })
        })
        .collect();
    all.sort_unstable();
    all
}

async fn stalled() {
    let server = Server::start("--serve");
    let process = Process::of_pid(server.0.id() as i32).unwrap();
    let text = format!("url = 'http://127.0.0.1:{}/'", server.1);
    let looks =
        Looks { timeout: Duration::from_secs(3), in_flight: 8000, ..Looks::new("http", &text, RATE, LENGTH) };
    let clock = Clock::start();
    let stalling = std::thread::spawn(move || {
        std::thread::sleep(STALL.0);
        process.signal(Signal::SIGSTOP).unwrap();
        let begin = clock.now();
        std::thread::sleep(STALL.1);
        process.signal(Signal::SIGCONT).unwrap();
        (begin, clock.now())
    });
    let seen = looks.done(clock).await;
    let meant = meant(seen.len(), stalling.join().unwrap());
    let latencies = sorted(&seen, |look| look.sample.latency());
    let slips = sorted(&seen, |look| look.sample.slip());
    for share in QUANTILES {
        let (meant, seen) = (quantile(&meant, share), quantile(&latencies, share));
        let off = (seen / meant - 1.0) * 100.0;
        println!("| p{} | {meant:.1} | {seen:.1} | {off:+.2} % |", share * 100.0);
    }
    println!(
        "{} looks, {} missed, {} bad; slip p50 {:.3}, p99 {:.3} ms; load {}",
        seen.len(),
        count(&seen, Outcome::Missed),
        count(&seen, Outcome::Bad),
        quantile(&slips, 0.5),
        quantile(&slips, 0.99),
        load()
    );
}

/// Answers datagrams, and takes down how long each was here: from the kernel's stamp on it to just before its answer is
/// sent.
fn echo(socket: &UdpSocket, stays: &Mutex<Vec<Duration>>, stop: &AtomicBool) {
    setsockopt(socket, sockopt::ReceiveTimestampns, &true).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let (mut bytes, mut control) = ([0; 64], nix::cmsg_space!(nix::sys::time::TimeSpec));
    while !stop.load(Ordering::Relaxed) {
        let mut room = [IoSliceMut::new(&mut bytes)];
        let fd = socket.as_raw_fd();
        let Ok(got) = recvmsg::<SockaddrIn>(fd, &mut room, Some(&mut control), MsgFlags::empty()) else {
            continue;
        };
        let stamp = got.cmsgs().unwrap().find_map(|message| match message {
            ControlMessageOwned::ScmTimestampns(stamp) => Some(Duration::from(stamp)),
            _ => None,
        });
        let from = got.address.unwrap();
        let to = std::net::SocketAddrV4::new(from.ip(), from.port());
        let now = Duration::from(clock_gettime(ClockId::CLOCK_REALTIME).unwrap());
        socket.send_to(b"ok", to).unwrap();
        stays.lock().unwrap().push(now.saturating_sub(stamp.unwrap()));
    }
}

/// Computes for a share of the time.
fn busy(share: f64, stop: &AtomicBool) {
    const TURN: Duration = Duration::from_millis(10);
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        while begun.elapsed() < TURN.mul_f64(share) {
            std::hint::spin_loop();
        }
        std::thread::sleep(TURN.mul_f64(1.0 - share));
    }
}

async fn beside_the_kernel(what: &str, share: f64) {
    let (stop, stays) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let echoing = {
        let (stays, stop) = (Arc::clone(&stays), Arc::clone(&stop));
        std::thread::spawn(move || echo(&socket, &stays, &stop))
    };
    let processors = std::thread::available_parallelism().unwrap().get();
    let burning: Vec<_> = (0..if share > 0.0 { processors } else { 0 })
        .map(|_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || busy(share, &stop))
        })
        .collect();
    let text = format!("address = '{address}'\nsend = 'ask'\nexpect = {{ is = 'ok' }}");
    let looks = Looks::new("udp", &text, 500.0, Duration::from_secs(10)).done(Clock::start()).await;
    stop.store(true, Ordering::Relaxed);
    echoing.join().unwrap();
    for thread in burning {
        thread.join().unwrap();
    }
    let stays = stays.lock().unwrap();
    assert_eq!(looks.len(), stays.len(), "each look was heard once, in its turn");
    let mut errors: Vec<Duration> = (looks.iter().zip(stays.iter()))
        .map(|(look, stay)| look.sample.ended.saturating_sub(look.sample.started + *stay))
        .collect();
    errors.sort_unstable();
    let slips = sorted(&looks, |look| look.sample.slip());
    let us = |sorted: &[Duration], share| quantile(sorted, share) * 1e3;
    println!(
        "| {what} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {} |",
        us(&errors, 0.5),
        us(&errors, 0.99),
        us(&errors, 1.0),
        us(&slips, 0.5),
        us(&slips, 0.99),
        load()
    );
}

fn main() {
    if std::env::args().any(|argument| argument == "--serve") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(serve());
    }
    runtime().block_on(async {
        println!("| ms | follows from the server | seen | off by |\n|---|---|---|---|");
        for _ in 0..3 {
            stalled().await;
        }
        println!(
            "| us added by us | p50 | p99 | max | slip p50 | p99 | load |\n|---|---|---|---|---|---|---|"
        );
        for (what, share) in [("idle", 0.0), ("80 % busy", 0.8)] {
            beside_the_kernel(what, share).await;
        }
    });
}
