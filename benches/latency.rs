//! What `latency` does, in figures: asked against measured, throughput, and how fast it is gone. Needs root:
//! it works in network namespaces of its own. `cargo bench --bench latency`
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on should say so and stop")]

mod pair;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pair::{ONE, Pair, TWO, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Owned {
    fn signal(&self, signal: &str) {
        Command::new("kill").args([&format!("-{signal}"), &self.0.id().to_string()]).status().unwrap();
    }
}

fn slow(net: &str, state: &tempfile::TempDir, arguments: &str) -> Owned {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", net, env!("CARGO_BIN_EXE_brownout"), "inject", "latency", "--yes"]);
    command.args(["--for", "120s"]).args(arguments.split_whitespace());
    command.env("BROWNOUT_STATE", state.path()).stdin(Stdio::null()).stderr(Stdio::piped());
    let mut runner = Owned(command.spawn().unwrap());
    let mut said = String::new();
    for line in BufReader::new(runner.0.stderr.as_mut().unwrap()).lines() {
        said += &line.unwrap();
        if said.contains("took hold") || said.contains("cannot be measured") {
            return runner;
        }
    }
    panic!("it did not take hold: {said}");
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn quantile(times: &mut [Duration], q: f64) -> f64 {
    times.sort_unstable();
    ms(times[((times.len() - 1) as f64 * q).round() as usize])
}

/// Keep-alive connections to redis, 1,000 requests a second over all of them for some seconds; each round
/// trip as the client sees it.
fn keep_alive(to: SocketAddr, seconds: u32) -> Vec<Duration> {
    const CONNECTIONS: u32 = 200;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let each = (0..CONNECTIONS).map(|n| {
            tokio::spawn(async move {
                let mut stream = tokio::net::TcpStream::connect(to).await.unwrap();
                stream.set_nodelay(true).unwrap();
                let gap = Duration::from_millis(u64::from(CONNECTIONS));
                let first = tokio::time::Instant::now() + Duration::from_millis(u64::from(n));
                let mut turns = tokio::time::interval_at(first + gap, gap);
                let (mut trips, mut answer) = (Vec::new(), [0; 7]);
                for _ in 0..seconds * 1000 / CONNECTIONS {
                    turns.tick().await;
                    let begun = Instant::now();
                    stream.write_all(b"PING\r\n").await.unwrap();
                    stream.read_exact(&mut answer).await.unwrap();
                    trips.push(begun.elapsed());
                }
                trips
            })
        });
        let mut all = Vec::new();
        for one in each.collect::<Vec<_>>() {
            all.extend(one.await.unwrap());
        }
        all
    })
}

/// Mbit/s that arrive, once the window has opened.
fn bulk(sink: &Arc<AtomicU64>, to: SocketAddr) -> f64 {
    let stop = Instant::now() + Duration::from_secs(7);
    let sender = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(to).unwrap();
        let bytes = vec![0; 128 << 10];
        while Instant::now() < stop {
            stream.write_all(&bytes).unwrap();
        }
    });
    std::thread::sleep(Duration::from_secs(2));
    let (begun, before) = (Instant::now(), sink.load(Ordering::Relaxed));
    std::thread::sleep(Duration::from_secs(4));
    let bytes = sink.load(Ordering::Relaxed) - before;
    let rate = bytes as f64 * 8.0 / begun.elapsed().as_secs_f64() / 1e6;
    sender.join().unwrap();
    rate
}

fn sink(at: &str) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind(at).unwrap();
    let (at, count) = (listener.local_addr().unwrap(), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, counted) = (stream.unwrap(), Arc::clone(&counted));
            std::thread::spawn(move || {
                let mut bytes = vec![0; 256 << 10];
                while let Ok(n @ 1..) = stream.read(&mut bytes) {
                    counted.fetch_add(n as u64, Ordering::Relaxed);
                }
            });
        }
    });
    (at, count)
}

fn echo(at: &str) -> SocketAddr {
    let socket = UdpSocket::bind(at).unwrap();
    let at = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 64];
        while let Ok((n, from)) = socket.recv_from(&mut bytes) {
            let _ = socket.send_to(&bytes[..n], from);
        }
    });
    at
}

/// How long after `since` a fresh datagram comes back at once; looks about every 300 microseconds.
fn gone(at: SocketAddr, since: Instant) -> Duration {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(at).unwrap();
    socket.set_nonblocking(true).unwrap();
    for number in 0_u64.. {
        let (sent, mut answer) = (Instant::now(), [0; 8]);
        socket.send(&number.to_be_bytes()).unwrap();
        while sent.elapsed() < Duration::from_micros(300) {
            if socket.recv(&mut answer).is_ok() && answer == number.to_be_bytes() {
                return since.elapsed();
            }
            std::thread::yield_now();
        }
        assert!(since.elapsed() < Duration::from_secs(20), "it is never gone");
    }
    unreachable!()
}

fn main() {
    let Some(_pair) = Pair::new() else { return };
    let state = tempfile::tempdir().unwrap();
    let mut redis = Command::new("ip");
    redis.args(["netns", "exec", TWO, "redis-server", "--save", "", "--protected-mode", "no"]);
    let _redis = Owned(redis.current_dir(state.path()).stdout(Stdio::null()).spawn().unwrap());
    let server: SocketAddr = "10.9.0.2:6379".parse().unwrap();
    within(ONE, || {
        while TcpStream::connect(server).is_err() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });

    println!("keep-alive, 1,000 requests/s over 200 connections to redis, at the client");
    let mut without = within(ONE, || keep_alive(server, 5));
    println!(
        "  without:        p50 {:7.3} ms, p99 {:7.3} ms",
        quantile(&mut without, 0.5),
        quantile(&mut without, 0.99)
    );
    for (asked, net, side) in
        [(25, TWO, "server"), (100, TWO, "server"), (25, ONE, "client"), (100, ONE, "client")]
    {
        let runner = slow(net, &state, &format!("--to {server} delay={asked}ms"));
        let mut trips = within(ONE, || keep_alive(server, 5));
        let (p50, p99) = (quantile(&mut trips, 0.5), quantile(&mut trips, 0.99));
        println!("  asked {asked:3} ms:   p50 {p50:7.3} ms, p99 {p99:7.3} ms (held on the {side}'s host)");
        drop(runner);
    }

    println!("bulk TCP over a veth pair");
    let (at, count) = within(TWO, || sink("10.9.0.2:0"));
    println!("  without:        {:6.0} Mbit/s", within(ONE, || bulk(&count, at)));
    for (net, side) in [(TWO, "receiver"), (ONE, "sender")] {
        let runner = slow(net, &state, &format!("--to {at} delay=25ms"));
        println!("  25 ms, held on the {side}'s host: {:6.0} Mbit/s", within(ONE, || bulk(&count, at)));
        drop(runner);
    }

    println!("gone, for fresh packets");
    within(ONE, || {
        let at = echo("127.0.0.1:0");
        for (signal, what, times) in
            [("KILL", "SIGKILL", 50), ("INT", "SIGINT (release)", 50), ("STOP", "SIGSTOP (lease)", 5)]
        {
            let mut took: Vec<Duration> = (0..times)
                .map(|_| {
                    // Its own: the last one's watchdog may still be paying.
                    let state = tempfile::tempdir().unwrap();
                    let runner = slow(ONE, &state, &format!("--to {at} delay=200ms"));
                    let since = Instant::now();
                    runner.signal(signal);
                    gone(at, since)
                })
                .collect();
            println!(
                "  after {what}: p50 {:.2} ms, p99 {:.2} ms of {times}",
                quantile(&mut took, 0.5),
                quantile(&mut took, 0.99)
            );
        }
    });
}
