//! How fast the packet engine is: packets a second, CPU for each, and bulk TCP through it, each beside the
//! same cable without it. Needs root: it works in network namespaces of its own. `cargo bench --bench packets`
//!
//! The blaster has a window, so that a slower engine slows it down instead of being overrun: what is
//! counted has gone through the engine and has arrived. What got lost is counted too.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on should say so and stop")]

mod pair;

use std::io::{IoSliceMut, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use brownout::hands::hold::{Hold, Order};
use brownout::hands::queue::{Fate, Judge, Manner, Packet};
use brownout::hands::rules::{self, Hook, Traffic};
use brownout::hands::{Heartbeat, flow};
use brownout::host::socket::Protocol;
use brownout::host::target::Endpoint;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, setsockopt, sockopt};
use pair::{ONE, Pair, TWO, enter, within};

/// Datagrams in one system call, and the bytes of each.
const BATCH: usize = 64;
const SMALL: usize = 64;
/// Flows, that is sockets of the blaster.
const FLOWS: usize = 8;
const SECONDS: Duration = Duration::from_secs(3);

/// Receives datagrams on a port and counts them.
fn udp_sink(at: &str, stop: &Arc<AtomicBool>) -> (SocketAddr, Arc<AtomicU64>) {
    let socket = UdpSocket::bind(at).unwrap();
    setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20)).unwrap();
    let (at, count) = (socket.local_addr().unwrap(), Arc::new(AtomicU64::new(0)));
    let (counted, stop) = (Arc::clone(&count), Arc::clone(stop));
    std::thread::spawn(move || {
        let mut room = vec![[0_u8; SMALL]; BATCH];
        let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
        while !stop.load(Ordering::Relaxed) {
            let mut slices: Vec<[IoSliceMut<'_>; 1]> =
                room.iter_mut().map(|bytes| [IoSliceMut::new(bytes)]).collect();
            let flags = MsgFlags::MSG_DONTWAIT;
            match recvmmsg(socket.as_raw_fd(), &mut headers, slices.iter_mut(), flags, None) {
                Ok(got) => _ = counted.fetch_add(got.count() as u64, Ordering::Relaxed),
                // Being woken for each would cost the sender more than the packet itself.
                Err(_) => std::thread::sleep(Duration::from_micros(100)),
            }
        }
    });
    (at, count)
}

/// What came of a blast.
struct Blast {
    rate: f64,
    lost: u64,
}

/// Sends datagrams as fast as they arrive, never more than `window` on their way, for some seconds.
fn blast(to: SocketAddr, arrived: &AtomicU64, window: u64) -> Blast {
    let sockets: Vec<UdpSocket> = (0..FLOWS).map(|_| UdpSocket::bind("10.9.0.1:0").unwrap()).collect();
    for socket in &sockets {
        setsockopt(socket, sockopt::SndBuf, &(4 << 20)).unwrap();
        // One system call sends many; the cable takes them one by one (see `Pair::cut_up`).
        setsockopt(socket, sockopt::UdpGsoSegment, &(SMALL as i32)).unwrap();
        socket.connect(to).unwrap();
    }
    let bytes = [7_u8; SMALL * BATCH];
    let (begun, base) = (Instant::now(), arrived.load(Ordering::Relaxed));
    let (mut sent, mut lost, mut turn, mut seen, mut progress) = (0_u64, 0_u64, 0, 0, begun);
    while begun.elapsed() < SECONDS {
        let there = arrived.load(Ordering::Relaxed) - base;
        if there != seen {
            (seen, progress) = (there, Instant::now());
        }
        if sent - there - lost > window - BATCH as u64 {
            if progress.elapsed() > Duration::from_millis(200) {
                lost = sent - there;
            }
            std::thread::sleep(Duration::from_micros(20));
            continue;
        }
        sent += (sockets[turn % FLOWS].send(&bytes).unwrap() / SMALL) as u64;
        turn += 1;
    }
    let took = begun.elapsed();
    let rate = (arrived.load(Ordering::Relaxed) - base) as f64 / took.as_secs_f64();
    std::thread::sleep(Duration::from_millis(300));
    Blast { rate, lost: sent - (arrived.load(Ordering::Relaxed) - base) }
}

/// The time the engine's threads have spent on a processor (first figure of schedstat).
fn engine_cpu() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let ours = tasks.filter(|task| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name == "packets\n")
    });
    let nanos = ours.filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    nanos.sum::<u64>() as f64 / 1e9
}

/// Judges packets as a fault does that looks at each: whose it is, and when it is due.
fn judge(delay: Duration, jitter: Duration) -> Judge {
    let mut state = 1_u64;
    Box::new(move |packet: &Packet<'_>, now| {
        std::hint::black_box(flow::of(packet.shown));
        if delay.is_zero() {
            return Fate::Pass;
        }
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        Fate::Hold(now + delay + jitter.mul_f64((state >> 40) as f64 / f64::from(1 << 24)))
    })
}

/// Holds what goes to a port, in the namespace of this thread.
fn hold(protocol: Protocol, port: u16, (delay, jitter): (Duration, Duration)) -> Hold {
    let anywhere = Endpoint { address: None, port: None };
    let to = Endpoint { address: None, port: Some(port) };
    let traffic =
        [Traffic { hook: Hook::Input, protocol, loopback: Some(false), from: anywhere, to, opens: false }];
    let order = Order {
        table: "brownout_bench",
        queue: 4000,
        by: rules::probe().unwrap(),
        traffic: &traffic,
        manner: Manner::bulk(jitter.is_zero()),
    };
    let heartbeat = Heartbeat::default();
    let beating = heartbeat.clone();
    std::thread::spawn(move || {
        for _ in 0..200 {
            std::thread::sleep(Duration::from_millis(100));
            beating.beat();
        }
    });
    Hold::begin(&order, judge(delay, jitter), heartbeat).unwrap()
}

/// Gbit/s that arrive, once the window has opened.
fn bulk(arrived: &AtomicU64, to: SocketAddr) -> f64 {
    let stop = Instant::now() + SECONDS + Duration::from_secs(2);
    let sender = std::thread::spawn(move || {
        enter(ONE);
        let mut stream = TcpStream::connect(to).unwrap();
        let bytes = vec![0; 256 << 10];
        while Instant::now() < stop {
            stream.write_all(&bytes).unwrap();
        }
    });
    std::thread::sleep(Duration::from_secs(1));
    let (begun, before) = (Instant::now(), arrived.load(Ordering::Relaxed));
    std::thread::sleep(SECONDS);
    let bytes = arrived.load(Ordering::Relaxed) - before;
    let rate = bytes as f64 * 8.0 / begun.elapsed().as_secs_f64() / 1e9;
    sender.join().unwrap();
    rate
}

fn tcp_sink(at: &str) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind(at).unwrap();
    let (at, count) = (listener.local_addr().unwrap(), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut bytes) = (stream.unwrap(), vec![0; 512 << 10]);
            while let Ok(n @ 1..) = stream.read(&mut bytes) {
                counted.fetch_add(n as u64, Ordering::Relaxed);
            }
        }
    });
    (at, count)
}

fn main() {
    let Some(_pair) = Pair::new() else { return };
    Pair::cut_up(true);
    let stop = Arc::new(AtomicBool::new(false));
    let (udp, datagrams) = within(TWO, || udp_sink("10.9.0.2:0", &stop));
    let (tcp, bytes) = within(TWO, || tcp_sink("10.9.0.2:0"));
    let load = std::fs::read_to_string("/proc/loadavg").unwrap();
    let cores = std::thread::available_parallelism().unwrap();
    println!("{cores} processors, load before: {}", load.split(' ').next().unwrap_or_default());

    let ms = Duration::from_millis;
    let cases = [
        ("the cable alone", None),
        ("through the engine, let pass", Some((ms(0), ms(0)))),
        ("held 5 ms", Some((ms(5), ms(0)))),
        ("held 5 to 10 ms, out of turn", Some((ms(5), ms(5)))),
    ];
    // Words of a case choose it alone, for a profiler.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let chosen = |what: &str| words.is_empty() || words.iter().any(|word| what.contains(word.as_str()));
    println!("datagrams of {SMALL} bytes, {FLOWS} flows");
    let mut alone = None;
    for (what, held) in cases.iter().filter(|(what, _)| chosen(what)) {
        let window = held.map_or(1000, |(delay, jitter)| 1000 + (delay + jitter).as_millis() as u64 * 600);
        let hold = held.map(|times| within(TWO, || hold(Protocol::Udp, udp.port(), times)));
        let before = engine_cpu();
        let done = within(ONE, || blast(udp, &datagrams, window));
        let cpu = (engine_cpu() - before) * 1e6 / (done.rate * SECONDS.as_secs_f64());
        let tally = hold.as_ref().map_or(0, |hold| hold.tally().held());
        drop(hold);
        let share = 100.0 * done.rate / *alone.get_or_insert(done.rate);
        println!(
            "  {what:30} {:9.0} packets/s, {share:3.0} %, {cpu:.2} us of CPU each, {} lost, {tally} held",
            done.rate, done.lost
        );
    }
    Pair::cut_up(false);
    println!("bulk TCP, one connection");
    let mut alone = None;
    for (what, held) in cases[..3].iter().filter(|(what, _)| chosen(&format!("{what}, bulk"))) {
        let hold = held.map(|times| within(TWO, || hold(Protocol::Tcp, tcp.port(), times)));
        let before = engine_cpu();
        let rate = bulk(&bytes, tcp);
        let cpu = (engine_cpu() - before) / SECONDS.as_secs_f64() * 100.0;
        drop(hold);
        let share = 100.0 * rate / *alone.get_or_insert(rate);
        println!("  {what:30} {rate:9.2} Gbit/s, {share:3.0} %, the engine took {cpu:.0} % of a processor");
    }
    stop.store(true, Ordering::Relaxed);
}
