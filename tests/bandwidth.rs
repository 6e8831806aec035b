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

/// Megabits a second that a connection brings.
fn brings(stream: &mut TcpStream, length: Duration) -> f64 {
    let (mut part, begun, mut bytes) = (vec![0; 65_536], Instant::now(), 0);
    while begun.elapsed() < length {
        let more = stream.read(&mut part).unwrap();
        assert!(more > 0, "the connection has ended");
        bytes += more;
    }
    bytes as f64 * 8e-6 / begun.elapsed().as_secs_f64()
}

/// Counts, behind whatever holds it, what comes from a port.
fn count(net: &Netns, port: u16) {
    let hook = "type filter hook input priority 300";
    let rules = format!(
        "add table ip passed; add chain ip passed input {{ {hook}; }}; add rule ip passed input tcp sport {port} counter"
    );
    let done = net.command("nft").arg(rules).status().unwrap();
    assert!(done.success());
}

/// Megabits that were counted until now.
fn counted(net: &Netns) -> f64 {
    let table = net.prints("nft", &["list", "table", "ip", "passed"]);
    let bytes = table.split_once("bytes ").and_then(|(_, after)| after.split_whitespace().next()).unwrap();
    bytes.parse::<f64>().unwrap() * 8e-6
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
    count(&net, port);
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
        brings(&mut stream, Duration::from_secs(1));
        // What the line lets through is measured, not what is read: what came behind a lost packet waits for that one in the
        // socket, and is then read at once.
        let (begun, before) = (Instant::now(), counted(&net));
        let read = brings(&mut stream, Duration::from_secs(2));
        let (through, took) = (counted(&net) - before, begun.elapsed().as_secs_f64());
        println!("{rate}: {:.2} Mbit/s went through, {read:.2} Mbit/s were read", through / took);
        // A busy machine is late: what waited longest, queue and burst and a packet of 64 KiB, may come on top.
        assert!(through < mbit * (took + 0.3), "{rate}: {through} Mbit in {took} s");
        assert!(
            through > 0.8 * mbit * took && read > 0.7 * mbit,
            "{rate}: {through} Mbit in {took} s, {read} Mbit/s read"
        );
        runner.kill();
        // What waited is lost with the runner, and TCP waits before it sends that again.
        eventually("it has all of the line again", || {
            brings(&mut stream, Duration::from_millis(200)) > 3.0 * mbit
        });
        eventually("no table of ours is left", || !tables(&net).contains("brownout"));
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
    let free = brings(&mut other, Duration::from_millis(300));
    assert!(free > 100.0, "another port: {free} Mbit/s");
    drop(runner);
    eventually("no table is left", || tables(&net).is_empty());
}
