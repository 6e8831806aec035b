//! The fault `bandwidth` on bulk over real sockets, in network namespaces of the tests' own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Stdio;
use std::time::{Duration, Instant};

use support::{Netns, Owned, World, eventually};

/// A connection over which as much comes as goes through.
fn bulk(net: &Netns) -> (TcpStream, u16) {
    net.within(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let reader = TcpStream::connect(at).unwrap();
        let (mut writer, _) = listener.accept().unwrap();
        std::thread::spawn(move || {
            let _listens = listener;
            while writer.write_all(&[7; 16_384]).is_ok() {}
        });
        (reader, at.port())
    })
}

/// Megabits a second that a connection brings, after what was under way has come.
fn brings(stream: &mut TcpStream, settle: Duration, length: Duration) -> f64 {
    let (mut part, begun) = (vec![0; 65_536], Instant::now());
    while begun.elapsed() < settle {
        assert!(stream.read(&mut part).unwrap() > 0);
    }
    let (begun, mut bytes) = (Instant::now(), 0);
    while begun.elapsed() < length {
        bytes += stream.read(&mut part).unwrap();
    }
    bytes as f64 * 8e-6 / begun.elapsed().as_secs_f64()
}

fn thin(net: &Netns, world: &World, arguments: &str) -> Owned {
    let mut command = net.brownout(&world.state());
    command.args(["inject", "bandwidth", "--yes", "--for", "60s"]).args(arguments.split_whitespace());
    Owned::start(command.stdout(Stdio::null()).stderr(Stdio::piped()))
}

fn tables(net: &Netns) -> String {
    net.prints("nft", &["list", "tables"])
}

#[test]
fn a_connection_that_was_there_gets_the_rate_and_all_of_the_line_again_when_the_runner_is_killed() {
    let Some(net) = Netns::new() else { return };
    let world = World::new();
    let (mut stream, port) = bulk(&net);
    for (rate, mbit) in [("10Mbit/s", 10.0), ("100Mbit/s", 100.0)] {
        let mut runner = thin(&net, &world, &format!("--to :{port} rate={rate} direction=from"));
        // It must be read meanwhile, or nothing would be sent that could be seen to wait.
        let stop = std::sync::atomic::AtomicBool::new(false);
        let mut reading = stream.try_clone().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut part = vec![0; 65_536];
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    assert!(reading.read(&mut part).unwrap() > 0);
                }
            });
            runner.took_hold();
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        // Over loopback a packet has 64 KiB, a twentieth of a second of the thinner line: so many that one does not count.
        let got = brings(&mut stream, Duration::from_secs(1), Duration::from_secs(6));
        println!("{rate}: {got:.2} Mbit/s");
        // Without IP and TCP headers; a busy machine is late, never early.
        assert!((0.8 * mbit..1.05 * mbit).contains(&got), "{rate}: {got} Mbit/s");
        runner.kill();
        // What waited is lost with the runner, and TCP waits before it sends that again.
        eventually("it has all of the line again", || {
            brings(&mut stream, Duration::ZERO, Duration::from_millis(200)) > 3.0 * mbit
        });
        eventually("no table is left", || tables(&net).is_empty());
    }
}

#[test]
fn what_is_not_named_has_all_of_the_line_and_what_is_too_much_is_lost() {
    let Some(net) = Netns::new() else { return };
    let world = World::new();
    let (mut other, _) = bulk(&net);
    let (sender, receiver) = net.within(|| {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        (sender, receiver)
    });
    let port = receiver.local_addr().unwrap().port();
    let runner = thin(&net, &world, &format!("--to :{port} rate=2Mbit/s direction=to burst=2KiB queue=50ms"));
    eventually("the rules are there", || tables(&net).contains("brownout"));
    receiver.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let (mut part, mut received, begun) = ([0; 2000], 0, Instant::now());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // About 8 Mbit/s for two seconds.
            for nth in 0..2000_u32 {
                while begun.elapsed() < Duration::from_millis(1) * nth {
                    std::thread::sleep(Duration::from_micros(200));
                }
                sender.send(&[1; 972]).unwrap();
            }
        });
        while let Ok(bytes) = receiver.recv(&mut part) {
            received += bytes + 28;
        }
    });
    let mbit = received as f64 * 8e-6 / (begun.elapsed().as_secs_f64() - 0.2);
    println!("UDP: {mbit:.2} Mbit/s");
    assert!((1.6..2.2).contains(&mbit), "{mbit} Mbit/s");
    let free = brings(&mut other, Duration::from_millis(100), Duration::from_millis(300));
    assert!(free > 100.0, "another port: {free} Mbit/s");
    drop(runner);
    eventually("no table is left", || tables(&net).is_empty());
}
