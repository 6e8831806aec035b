//! What becomes of packets under `loss`, `duplicate`, `corrupt`, `reorder` and `partition`: numbered datagrams over real
//! sockets, in network namespaces of the tests' own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod support;

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Stdio;
use std::time::{Duration, Instant};

use support::{Netns, Owned, World, eventually};

/// Two sockets, the one sending to the other.
struct Way {
    sender: UdpSocket,
    receiver: UdpSocket,
}

/// A datagram: its number, and what must arrive as it is.
const FILLING: [u8; 32] = [0x5a; 32];

impl Way {
    fn new(net: &Netns) -> Self {
        net.within(|| {
            let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
            let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
            sender.connect(receiver.local_addr().unwrap()).unwrap();
            receiver.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            // A reader that a busy machine keeps waiting loses nothing.
            nix::sys::socket::setsockopt(&receiver, nix::sys::socket::sockopt::RcvBufForce, &(32 << 20))
                .unwrap();
            Self { sender, receiver }
        })
    }

    /// Another client of the same server.
    fn another(&mut self, net: &Netns) {
        let to = self.receiver.local_addr().unwrap();
        self.sender = net.within(|| {
            let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
            sender.connect(to).unwrap();
            sender
        });
    }

    fn port(&self) -> u16 {
        self.receiver.local_addr().unwrap().port()
    }

    /// Sends so many, and says what arrived: numbers in their order, and whether each was whole.
    fn send(&self, count: u32) -> Vec<(u32, bool)> {
        std::thread::scope(|scope| {
            let received = scope.spawn(|| {
                let (mut arrived, mut room) = (Vec::new(), [0; 64]);
                while let Ok(length) = self.receiver.recv(&mut room) {
                    let number = u32::from_be_bytes(room[..4].try_into().unwrap());
                    arrived.push((number, length == 36 && room[4..36] == FILLING));
                }
                arrived
            });
            for number in 0..count {
                let datagram = [&number.to_be_bytes()[..], &FILLING].concat();
                // A sender never hears of what is lost.
                self.sender.send(&datagram).unwrap();
                if number % 16 == 15 {
                    std::thread::sleep(Duration::from_micros(500));
                }
            }
            received.join().unwrap()
        })
    }
}

/// Begins a fault, and returns when its rules stand; it is ended by being dropped.
fn fault(net: &Netns, world: &World, arguments: &str) -> Owned {
    let mut command = net.brownout(&world.state());
    command.args(["inject"]).args(arguments.split_whitespace()).args(["--yes", "--for", "60s"]);
    let owned = Owned::start(command.stdout(Stdio::null()).stderr(Stdio::null()));
    eventually("its rules stand", || net.prints("nft", &["list", "ruleset"]).contains("brownout"));
    // The rules are there; the lease and the queue are of the same transaction or older.
    owned
}

fn gone(net: &Netns, fault: Owned) {
    drop(fault);
    eventually("nothing is left of it", || net.prints("nft", &["list", "tables"]).is_empty());
}

/// Whether so many of so many are a share, within 99.9 % of what chance does.
fn about(hits: usize, of: u32, share: f64) -> bool {
    let spread = 3.29 * (f64::from(of) * share * (1.0 - share)).sqrt();
    (hits as f64 - f64::from(of) * share).abs() <= spread + 1.0
}

#[test]
fn so_many_are_lost_as_were_asked_and_the_same_ones_for_the_same_seed() {
    let Some(net) = Netns::new() else { return };
    let world = World::new();
    for (percent, of) in [(1.0, 10_000_u32), (10.0, 5000), (50.0, 5000)] {
        let mut way = Way::new(&net);
        let mut lost = |seed: u32| {
            way.another(&net);
            let arguments = format!("loss --to 127.0.0.1:{} percent={percent}% --seed {seed}", way.port());
            let running = fault(&net, &world, &arguments);
            let arrived: std::collections::BTreeSet<u32> = way.send(of).into_iter().map(|(n, _)| n).collect();
            gone(&net, running);
            (0..of).filter(|number| !arrived.contains(number)).collect::<Vec<u32>>()
        };
        let first = lost(7);
        println!("loss {percent} %: {} of {of}", first.len());
        assert!(about(first.len(), of, percent / 100.0), "{percent} %: {} of {of}", first.len());
        assert_eq!(first, lost(7), "the same seed loses the same, though the client's port is another");
        assert_ne!(first, lost(8), "another seed loses others");
    }
    assert!(Way::new(&net).send(100).len() == 100, "nothing is lost afterwards");
}

#[test]
fn bursts_are_as_long_as_asked() {
    let Some(net) = Netns::new() else { return };
    let (world, way, of) = (World::new(), Way::new(&net), 20_000);
    let arguments = format!("loss --to 127.0.0.1:{} percent=20% --seed 3", way.port());
    let running = fault(&net, &world, &format!("{arguments} burst=8packets"));
    let mut arrived: Vec<u32> = way.send(of).into_iter().map(|(n, _)| n).collect();
    gone(&net, running);
    arrived.sort_unstable();
    let gaps = arrived.windows(2).map(|pair| pair[1] - pair[0] - 1).filter(|gap| *gap > 0);
    let gaps: Vec<u32> = gaps.collect();
    let mean = f64::from(gaps.iter().sum::<u32>()) / gaps.len() as f64;
    println!("bursts of 8: {} of {mean:.2} in the mean", gaps.len());
    // A geometric length has about its mean as its deviation; 500 bursts are expected.
    assert!((mean - 8.0).abs() < 3.29 * 8.0 / (gaps.len() as f64).sqrt() + 0.3, "{mean}");
}

/// An experiment of network faults on two ports, and no looks at all.
fn experiment(world: &World, faults: &str) -> std::path::PathBuf {
    let file = world.folder.path().join("two.toml");
    let nobody = "[probe.none.exec]\nrun = [\"true\"]\nrate = \"1/s\"\n";
    std::fs::write(&file, format!("title = \"Two at once\"\n{nobody}{faults}")).unwrap();
    file
}

/// Sends numbered datagrams, one a millisecond, until a child has ended and for as long again as they may be held; how long each was on
/// its way, in the order in which they arrived.
fn while_it_runs(way: &Way, run: &mut Owned, held: Duration) -> Vec<(u32, Duration)> {
    let (begun, count) = (Instant::now(), std::sync::atomic::AtomicU32::new(u32::MAX));
    let ordering = std::sync::atomic::Ordering::SeqCst;
    std::thread::scope(|scope| {
        let receiving = scope.spawn(|| {
            let (mut arrived, mut room) = (Vec::new(), [0; 64]);
            while (arrived.len() as u32) < count.load(ordering) {
                let Ok(_) = way.receiver.recv(&mut room) else {
                    if count.load(ordering) < u32::MAX {
                        break;
                    }
                    continue;
                };
                let number = u32::from_be_bytes(room[..4].try_into().unwrap());
                let sent = Duration::from_nanos(u64::from_be_bytes(room[4..12].try_into().unwrap()));
                arrived.push((number, begun.elapsed().saturating_sub(sent)));
            }
            arrived
        });
        let (mut sent, mut ended) = (0_u32, None);
        while ended.is_none_or(|ended: Instant| ended.elapsed() < held) {
            let now = begun.elapsed().as_nanos() as u64;
            way.sender.send(&[&sent.to_be_bytes()[..], &now.to_be_bytes()].concat()).unwrap();
            sent += 1;
            if ended.is_none() && run.0.try_wait().unwrap().is_some() {
                ended = Some(Instant::now());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        count.store(sent, ordering);
        let arrived = receiving.join().unwrap();
        assert_eq!(arrived.len(), sent as usize, "none is lost");
        arrived
    })
}

#[test]
fn what_one_fault_holds_is_not_lost_when_others_in_its_namespace_begin_and_end() {
    let Some(net) = Netns::new() else { return };
    let (world, way, other) = (World::new(), Way::new(&net), Way::new(&net));
    let file = experiment(
        &world,
        &format!(
            "[fault.held.latency]\nto = {{ port = {} }}\ndelay = \"400ms\"\nfor = \"6s\"\n\
             [fault.steps.latency]\nto = {{ port = {other} }}\ndelay = {{ from = \"1ms\", to = \"9ms\", steps = 5 }}\n\
             at = \"1s\"\nfor = \"3s\"\n\
             [fault.cut.partition]\nto = {{ port = {other} }}\nat = \"2s\"\nfor = \"1s\"\n\
             [fault.slow.bandwidth]\nto = {{ port = {other} }}\nrate = \"1Mbit/s\"\nat = \"1500ms\"\nfor = \"3s\"\n",
            way.port(),
            other = other.port(),
        ),
    );
    let mut run = net.brownout(&world.state());
    let told = world.folder.path().join("told");
    let run = run.arg("run").arg(file).arg("--yes").stdout(Stdio::null());
    let mut run = Owned::start(run.stderr(std::fs::File::create(&told).unwrap()));
    let arrived = while_it_runs(&way, &mut run, Duration::from_secs(1));
    let told = std::fs::read_to_string(told).unwrap();
    for fault in ["held", "steps#5", "cut", "slow"] {
        assert!(told.contains(&format!("nothing is left of fault {fault}:")), "{fault}: {told}");
    }
    assert!(arrived.is_sorted_by_key(|(number, _)| *number), "their order is kept");
    let held = arrived.iter().filter(|(_, trip)| *trip >= Duration::from_millis(400)).count();
    println!("{held} of {} were held", arrived.len());
    assert!(held > arrived.len() / 4, "they were held all the while: {held} of {}", arrived.len());
    let longest = arrived.iter().map(|(_, trip)| *trip).max().unwrap();
    assert!(longest < Duration::from_millis(750), "none was held twice: {longest:?}");
    eventually("nothing is left", || net.prints("nft", &["list", "tables"]).is_empty());
}

#[test]
fn faults_on_the_same_traffic_add_up() {
    const OF: u32 = 2000;
    let Some(net) = Netns::new() else { return };
    let (world, way) = (World::new(), Way::new(&net));
    let faults = ["latency]\ndelay = \"30ms\"", "loss]\npercent = \"20%\"", "bandwidth]\nrate = \"1Gbit/s\""];
    let faults = faults
        .iter()
        .enumerate()
        .map(|(n, kind)| format!("[fault.f{n}.{kind}\nto = {{ port = {} }}\nfor = \"60s\"\n", way.port()));
    let file = experiment(&world, &faults.collect::<String>());
    let mut run = net.brownout(&world.state());
    let run = run.arg("run").arg(file).arg("--yes").stdout(Stdio::null()).stderr(Stdio::null());
    let running = Owned::start(run);
    eventually("their rules stand", || {
        net.prints("nft", &["list", "tables"]).matches("brownout").count() == 3
    });
    let arrived = way.send(OF);
    println!("20 % lost and 30 ms late: {} of {OF} arrived", arrived.len());
    assert!(about(OF as usize - arrived.len(), OF, 0.2), "{} arrived", arrived.len());
    assert!(arrived.is_sorted_by_key(|(number, _)| *number), "in their order");
    for _ in 0..10 {
        let (begun, mut room) = (Instant::now(), [0; 64]);
        way.sender.send(&[0; 36]).unwrap();
        let came = way.receiver.recv(&mut room).is_ok();
        assert!(!came || begun.elapsed() >= Duration::from_millis(30), "{:?}", begun.elapsed());
    }
    gone(&net, running);
}

#[test]
fn so_many_arrive_twice_as_were_asked_and_none_is_lost() {
    let Some(net) = Netns::new() else { return };
    let (world, way, of) = (World::new(), Way::new(&net), 5000);
    let running = fault(&net, &world, &format!("duplicate --to 127.0.0.1:{} percent=10%", way.port()));
    let arrived = way.send(of);
    gone(&net, running);
    let twice = arrived.len() - of as usize;
    println!("duplicate 10 %: {twice} of {of}");
    assert!(arrived.iter().all(|(_, whole)| *whole) && about(twice, of, 0.1), "{twice}");
}

#[test]
fn a_wrong_bit_is_lost_by_its_checksum_or_arrives_when_that_is_mended() {
    let Some(net) = Netns::new() else { return };
    let (world, of) = (World::new(), 5000);
    for checksum in ["broken", "mended"] {
        let way = Way::new(&net);
        let port = way.port();
        let running =
            fault(&net, &world, &format!("corrupt --to 127.0.0.1:{port} percent=10% checksum={checksum}"));
        let arrived = way.send(of);
        gone(&net, running);
        // A wrong bit may be in the number, too.
        let wrong = arrived.iter().filter(|(number, whole)| !whole || *number >= of).count();
        let lost = of as usize - arrived.len();
        println!("corrupt 10 %, {checksum}: {wrong} arrived wrong, {lost} did not");
        if checksum == "broken" {
            assert!(about(lost, of, 0.1) && wrong == 0, "{lost} {wrong}");
        } else {
            // Some of the turned bits give another number below `of`: those are not seen.
            assert!(lost == 0 && (about(wrong, of, 0.1) || (400..500).contains(&wrong)), "{lost} {wrong}");
        }
    }
}

#[test]
fn so_many_are_overtaken_as_were_asked_and_none_is_lost() {
    let Some(net) = Netns::new() else { return };
    let (world, way, of) = (World::new(), Way::new(&net), 5000);
    let running = fault(&net, &world, &format!("reorder --to 127.0.0.1:{} percent=10% by=30ms", way.port()));
    let arrived = way.send(of);
    gone(&net, running);
    assert_eq!(arrived.len(), of as usize);
    let mut highest = 0;
    let overtaken = arrived.iter().filter(|(number, _)| {
        let late = *number < highest;
        highest = highest.max(*number);
        late
    });
    let overtaken = overtaken.count();
    println!("reorder 10 %: {overtaken} of {of} overtaken");
    // The last ones have nobody behind them.
    assert!(about(overtaken, of, 0.1) || (380..500).contains(&overtaken), "{overtaken}");
}

#[test]
fn a_partition_lets_nothing_through_that_is_named_and_connections_go_on_afterwards() {
    use std::io::{Read, Write};
    let Some(net) = Netns::new() else { return };
    let (world, way, other) = (World::new(), Way::new(&net), Way::new(&net));
    let (listener, mut client) = net.within(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener, client)
    });
    let (mut server, at) = (listener.accept().unwrap().0, listener.local_addr().unwrap());

    let running = fault(&net, &world, &format!("partition --to 127.0.0.1:{}", way.port()));
    assert_eq!(way.send(50), []);
    assert_eq!(other.send(50).len(), 50, "nobody else");
    gone(&net, running);
    assert_eq!(way.send(50).len(), 50);

    let running = fault(&net, &world, &format!("partition --to {at}"));
    client.write_all(b"ping").unwrap();
    server.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(server.read(&mut [0; 4]).is_err(), "nothing arrives");
    let tried = net.within(|| TcpStream::connect_timeout(&at, Duration::from_millis(300)));
    assert_eq!(tried.unwrap_err().kind(), std::io::ErrorKind::TimedOut, "and no error is heard");
    gone(&net, running);
    server.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let (mut heard, since) = ([0; 4], Instant::now());
    server.read_exact(&mut heard).unwrap();
    println!("a partitioned connection went on after {:?}", since.elapsed());
    assert_eq!(&heard, b"ping");

    // One way: what is said arrives, what is answered does not.
    let running = fault(&net, &world, &format!("partition --to {at} direction=from"));
    client.write_all(b"hear").unwrap();
    server.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hear");
    server.write_all(b"back").unwrap();
    client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(client.read(&mut [0; 4]).is_err(), "the answer is lost");
    gone(&net, running);
    client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    client.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"back");
}
