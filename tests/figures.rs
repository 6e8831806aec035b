//! Probes that judge one figure: of this machine and of targets on it, and of a server that keeps figures.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod looking;
mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use brownout::base::Clock;
use brownout::host::pressure::{Want, stood_still};
use brownout::host::target::{Pick, Selector, Target};
use brownout::probe::{AnyProbe, AnyProber, Setting, Whom, look_once};
use brownout::slo::Outcome;
use looking::{GOOD, LONG, bad, look, nobody, prober, seen, server};
use support::{LIMIT, Owned, World, brownout, said, skip};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

// ----------------------------------------------------------------------------------------------- host

/// Looks at the processes of a command line; of this machine when none is said.
fn of(cmdline: Option<&str>, text: &str) -> AnyProber {
    let whom = cmdline.map(|cmdline| Whom {
        target: Target {
            selector: Selector::Cmdline(regex::Regex::new(cmdline).unwrap()),
            pick: Pick::Count(1),
            host: String::new(),
        },
        run: None,
    });
    let setting =
        Setting { directory: Path::new("/").to_owned(), timeout: LONG, facts: true, whom, from: None };
    AnyProbe::from_toml("host", text).unwrap().prober(&setting).unwrap()
}

async fn figure(prober: &AnyProber) -> f64 {
    let look = look(prober).await;
    let figure = look.facts.iter().find(|fact| fact.name == "figure").and_then(|fact| fact.figure);
    figure.unwrap_or_else(|| panic!("{:?}", look.sample))
}

/// A figure that is a whole number.
async fn count(prober: &AnyProber) -> u64 {
    figure(prober).await as u64
}

fn sleeper(seconds: &str) -> Owned {
    let sleeper = Owned::start(Command::new("sleep").arg(seconds).stdin(Stdio::null()));
    let executed = format!("sleep\0{seconds}\0");
    // A child is its parent's image until it has executed its own.
    while std::fs::read_to_string(format!("/proc/{}/cmdline", sleeper.pid())).unwrap() != executed {
        std::thread::yield_now();
    }
    sleeper
}

#[tokio::test]
async fn figures_of_this_machine_are_judged() {
    for (text, expect) in [
        ("of = 'cpu'", "{ above = -0.001, below = 1.001 }"),
        ("of = 'load'", "{ above = -1, below = 1e6 }"),
        ("of = 'memory-available'", "{ above = '1MiB', below = '1000TiB' }"),
        ("of = 'memory-used'", "{ above = '1MiB', below = '1000TiB' }"),
        ("of = 'disk-free'\npath = 'tmp'", "{ above = '1MiB' }"),
        ("of = 'disk-free-share'\npath = '/tmp'", "{ above = '0.0001%', below = 1.001 }"),
        ("of = 'inodes-free-share'\npath = '/proc'", "{ above = '99%', below = 1.001 }"),
        ("of = 'inodes-free'\npath = '/proc'", "{ below = 1 }"),
        ("of = 'errors'\ninterface = 'lo'", "{ below = 1 }"),
        ("of = 'drops'\ninterface = 'lo'", "{ above = -1 }"),
    ] {
        assert_eq!(seen(&of(None, &format!("{text}\nexpect = {expect}"))).await, GOOD, "{text}");
    }
    let wrong = |text: &str, expect: &str| format!("{text}\nexpect = {expect}");
    assert_eq!(
        seen(&of(None, &wrong("of = 'memory-available'", "{ below = '1B' }"))).await,
        bad("memory-available is not below 1B")
    );
    assert_eq!(
        seen(&of(None, &wrong("of = 'disk-free'\npath = '/no'", "{ above = 0 }"))).await,
        bad("/no: No such file or directory (os error 2)")
    );
    assert_eq!(
        seen(&of(None, &wrong("of = 'sent'\ninterface = 'none'", "{ above = 0 }"))).await,
        bad("there is no interface `none`")
    );
}

#[tokio::test]
async fn what_an_interface_carries_is_told_from_look_to_look() {
    let received = of(None, "of = 'received'\ninterface = 'lo'\nexpect = { above = 0 }");
    let ours = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    figure(&received).await;
    let (said, mut heard) = (vec![7; 40_000], vec![0; 40_000]);
    let began = std::time::Instant::now();
    for _ in 0..50 {
        ours.send_to(&said, ours.local_addr().unwrap()).unwrap();
        ours.recv(&mut heard).unwrap();
    }
    let rate = figure(&received).await;
    // The look before was made before we began, and this one after we ended.
    assert!(rate * (began.elapsed().as_secs_f64() + LIMIT.as_secs_f64()) > 2e6, "{rate}");
    assert!(rate > 1000.0, "{rate}");
}

#[tokio::test]
async fn pressure_is_a_share_of_time_or_the_kernel_does_not_tell_it() {
    for (word, want, full) in [
        ("cpu-pressure", Want::Cpu, false),
        ("memory-pressure", Want::Memory, false),
        ("memory-pressure-full", Want::Memory, true),
        ("io-pressure", Want::Io, false),
        ("io-pressure-full", Want::Io, true),
    ] {
        let text = format!("of = '{word}'\nexpect = {{ above = -0.001, below = 1.1 }}");
        match stood_still(want, full) {
            Ok(_) => assert_eq!(seen(&of(None, &text)).await, GOOD, "{word}"),
            Err(why) => {
                let setting =
                    Setting { directory: "/".into(), timeout: LONG, facts: false, whom: None, from: None };
                let refused = AnyProbe::from_toml("host", &text).unwrap().prober(&setting).err().unwrap();
                assert_eq!(refused, why.to_string());
                assert!(refused.contains("psi=1"), "{refused}");
            }
        }
    }
}

#[tokio::test]
async fn figures_of_a_target_are_those_of_its_processes_together() {
    let (pattern, expect) = (r"^sleep 61\.7(25|50)$", "expect = { above = 0 }");
    let looks = |of_what: &str| of(Some(pattern), &format!("of = '{of_what}'\n{expect}"));
    let nobody = bad(format!("there is no process of cmdline {pattern}"));
    for word in ["cpu", "memory-used", "fds", "threads"] {
        assert_eq!(seen(&looks(word)).await, nobody, "{word}");
    }
    assert_eq!(
        seen(&looks("processes")).await,
        bad(format!("processes of cmdline {pattern} is not above 0"))
    );

    let one = sleeper("61.725");
    let (fds, memory) = (figure(&looks("fds")).await, figure(&looks("memory-used")).await);
    assert!(fds >= 3.0 && memory > 4096.0, "{fds} {memory}");
    let _two = sleeper("61.750");
    assert_eq!(count(&looks("processes")).await, 2);
    assert_eq!(count(&looks("threads")).await, 2);
    assert!(figure(&looks("fds")).await >= 2.0 * 3.0 && figure(&looks("memory-used")).await > memory);
    assert!(figure(&looks("cpu")).await < 0.5, "they sleep");
    let lo = of(Some(pattern), &format!("of = 'received'\ninterface = 'lo'\n{}", "expect = { above = -1 }"));
    assert_eq!(seen(&lo).await, GOOD, "in its network");
    drop(one);
    assert_eq!(count(&looks("processes")).await, 1);
}

#[tokio::test]
async fn the_processors_that_a_target_keeps_busy_are_told() {
    let script = "while :; do :; done # 61.812";
    let busy = Owned::start(Command::new("sh").args(["-c", script]).stdin(Stdio::null()));
    let cpu = of(Some(r"^sh -c while .* 61\.812$"), "of = 'cpu'\nexpect = { above = '5%' }");
    while !std::fs::read_to_string(format!("/proc/{}/cmdline", busy.pid())).unwrap().starts_with("sh\0") {
        std::thread::yield_now();
    }
    let limit = std::time::Instant::now() + LIMIT;
    // On a machine with two busy processors it may have to wait for its turn.
    let mut told = figure(&cpu).await;
    while told < 0.05 {
        assert!(std::time::Instant::now() < limit, "{told}");
        told = figure(&cpu).await;
    }
    assert!(told < 1.5, "{told}");
}

#[tokio::test]
async fn a_process_that_has_another_in_its_place_is_a_restart_also_with_a_gap_between() {
    let restarts = of(Some(r"^sleep 61\.9$"), "of = 'restarts'\nexpect = { below = 1 }");
    let mut it = sleeper("61.9");
    assert_eq!(count(&restarts).await, 0, "it is there");
    assert_eq!(count(&restarts).await, 0, "it is still there");
    it.kill();
    it = sleeper("61.9");
    assert_eq!(seen(&restarts).await, bad(r"restarts of cmdline ^sleep 61\.9$ is not below 1"));
    it.kill();
    assert_eq!(count(&restarts).await, 0, "nobody is in its place");
    assert_eq!(count(&restarts).await, 0);
    it = sleeper("61.9");
    assert_eq!(count(&restarts).await, 1);
    let more = sleeper("61.9");
    assert_eq!(count(&restarts).await, 0, "one more is no restart");
    drop((it, more));
}

#[tokio::test]
async fn a_service_is_found_in_its_run_only() {
    let target =
        Target { selector: Selector::Service("shop".to_owned()), pick: Pick::All, host: String::new() };
    let whom = Some(Whom { target, run: None });
    let setting = Setting { directory: "/".into(), timeout: LONG, facts: false, whom, from: None };
    let probe = AnyProbe::from_toml("host", "of = 'threads'\nexpect = { above = 0 }").unwrap();
    let why = "service shop is started by a run only".to_owned();
    assert_eq!(seen(&probe.prober(&setting).unwrap()).await, (Outcome::Missed, why));

    let world = World::new();
    let file = world.folder.path().join("service.toml");
    let probe = |name: &str, of: &str, expect: &str| {
        format!(
            "[probe.{name}.host]\nof = '{of}'\ntarget = {{ service = 'idle' }}\nexpect = {{ {expect} }}\n\
             every = '50ms'\ntimeout = '20s'\n[slo.{name}]\nprobe = '{name}'\navailability = '90%'\n"
        )
    };
    let text = format!(
        "title = 'a service that is looked at'\n[steady_state]\nfor = '1s'\n[service.idle]\nrun = ['sleep', '60']\n{}{}{}\
         [fault.tell.exec]\ninject = ['true']\nundo = ['true']\nfor = '500ms'\n",
        probe("memory", "memory-used", "above = '4KiB', below = '1GiB'"),
        probe("processes", "processes", "above = 0, below = 2"),
        probe("restarts", "restarts", "below = 1"),
    );
    std::fs::write(&file, text).unwrap();
    let output = brownout(&world.state()).args(["run", "--confirm", "yes"]).arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    world.nothing_left();
}

// --------------------------------------------------------------------------------------------- promql

/// A server that answers every request with this status and body, and says that the body is so much longer.
async fn answers(status: &'static str, body: String, lacks: usize) -> SocketAddr {
    server(move |mut stream, _| {
        let body = body.clone();
        async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { return };
                head.push(byte);
            }
            let length = body.len() + lacks;
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}");
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    })
    .await
}

fn query(at: SocketAddr, query: &str, more: &str) -> AnyProber {
    prober("promql", &format!("url = 'http://{at}'\nquery = '''{query}'''\n{more}"))
}

const BELOW: &str = "expect = { below = 5 }";

#[tokio::test]
async fn what_is_no_answer_to_a_query_is_told() {
    let vector = |elements: &str| {
        format!("{{\"status\":\"success\",\"data\":{{\"resultType\":\"vector\",\"result\":[{elements}]}}}}")
    };
    let one = vector("{\"metric\":{},\"value\":[1.5,\"4\"]}");
    for (status, body, lacks, wanted) in [
        ("200 OK", one.clone(), 0, GOOD),
        ("200 OK", vector(""), 0, bad("there is no figure for this query")),
        (
            "200 OK",
            "{}".to_owned(),
            0,
            bad("the answer is not that of Prometheus's interface; it begins `{}`"),
        ),
        ("404 Not Found", one.clone(), 0, bad("status 404, expected 2xx, 400, 422 or 503")),
        (
            "503 Service Unavailable",
            "{\"status\":\"error\",\"errorType\":\"timeout\",\"error\":\"query timed out\"}".to_owned(),
            0,
            bad("the query is refused: `query timed out` (timeout)"),
        ),
        ("200 OK", " ".repeat(17 << 20), 0, bad("the body is longer than 16 MiB")),
    ] {
        let at = answers(status, body, lacks).await;
        assert_eq!(seen(&query(at, "up", BELOW)).await, wanted);
    }
    let half = answers("200 OK", one, 1).await;
    let why = format!("{half} closed the connection in the middle of the answer");
    assert_eq!(seen(&query(half, "up", BELOW)).await, bad(why));
    let silent = server(|mut stream, _| async move { while stream.read_u8().await.is_ok() {} }).await;
    let never = look_once(0, &query(silent, "up", BELOW), &Clock::start(), Duration::from_millis(300)).await;
    assert_eq!(never.sample.why.as_deref(), Some("no answer within 300 ms"));
}

#[tokio::test]
async fn a_real_prometheus_is_asked_about_what_it_scrapes() {
    let Ok(version) = Command::new("prometheus").arg("--version").output() else {
        return skip("there is no prometheus");
    };
    assert!(version.status.success());
    let metrics = "jobs{queue=\"mail\"} 3\njobs{queue=\"print\"} 4\nzero 0\n";
    let page = answers("200 OK", metrics.to_owned(), 0).await;
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("prometheus.yml");
    let scrape = format!(
        "global: {{ scrape_interval: 200ms, scrape_timeout: 200ms }}\n\
         scrape_configs:\n- job_name: shop\n  static_configs: [{{ targets: ['{page}'] }}]\n"
    );
    std::fs::write(&config, scrape).unwrap();
    let at = nobody().await;
    let _server = Owned::start(
        Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={at}"))
            .arg("--web.route-prefix=/metrics-of/shop")
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    );
    let url = format!("url = 'http://{at}/metrics-of/shop/'");
    let asks = |query: &str, more: &str| prober("promql", &format!("{url}\nquery = '''{query}'''\n{more}"));
    let jobs = asks("jobs{queue=\"mail\"}", "expect = { above = 2, below = 4 }");
    let limit = std::time::Instant::now() + LIMIT;
    loop {
        let (outcome, why) = seen(&jobs).await;
        if outcome == Outcome::Good {
            break;
        }
        assert!(std::time::Instant::now() < limit, "{why}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for (query, more, wanted) in [
        ("sum(jobs) / 2 > 0", "expect = { above = 3.4, below = 3.6 }", GOOD),
        ("scalar(zero) + 1 # 100 %", "expect = { above = 0 }", GOOD),
        ("jobs", "several = 'sum'\nexpect = { above = 6, below = 8 }", GOOD),
        ("jobs", "several = 'greatest'\nexpect = { above = 3 }", GOOD),
        ("up", "expect = { below = 1 }", bad("the result is not below 1")),
        ("jobs", BELOW, bad("there is more than one figure for this query: narrow it, or say `several`")),
        ("no_such_metric", BELOW, bad("there is no figure for this query")),
        (
            "zero / zero",
            BELOW,
            bad(
                "the query's answer is no number (NaN): it divides by zero, or of what it asks there is none",
            ),
        ),
        ("jobs[1m]", BELOW, bad("the query's answer is a range: take a rate or a sum of it")),
        ("'a'", BELOW, bad("the query's answer is a string")),
        (
            "sum(",
            BELOW,
            bad("the query is refused: `1:5: parse error: unclosed left parenthesis` (bad_data)"),
        ),
    ] {
        assert_eq!(seen(&asks(query, more)).await, wanted, "{query}");
    }
}
