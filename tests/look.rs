//! `brownout probe` through the real binary: what a person, a program and Prometheus are told of a look.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::Output;

use serde_json::Value;
use support::{World, brownout, said};

/// A web server that answers by the path: `/good`, `/metrics` with a figure, anything else is 503 with a reason.
fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut lines = BufReader::new(&stream).lines();
                while let Some(Ok(first)) = lines.next() {
                    while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                    let (status, body) = if first.contains(" /good ") {
                        ("200 OK", "fine")
                    } else if first.contains(" /metrics ") {
                        ("200 OK", "jobs 7\n")
                    } else {
                        ("503 Broken", "no database")
                    };
                    let answer = format!(
                        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nx-a: b\r\n\r\n{body}",
                        body.len()
                    );
                    if (&stream).write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

fn probe(world: &World, arguments: &[&str]) -> Output {
    brownout(&world.state()).arg("probe").args(arguments).current_dir(world.folder.path()).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn one_look_is_told_to_people_with_its_parts_and_what_it_met() {
    let (world, at) = (World::new(), server());
    let good = probe(&world, &[&format!("http://{at}/good")]);
    assert_eq!(good.status.code(), Some(0), "{}", said(&good));
    let text = out(&good);
    let words: Vec<&str> = text.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(words, ["probe", "good", "connect", "first", "transfer", "peer", "status", "body"], "{text}");
    assert!(text.contains(&format!("peer        {at}")) && text.contains("HTTP/1.1 200 OK"), "{text}");

    let bad = probe(&world, &[&format!("http://{at}/bad"), "-v"]);
    assert_eq!(bad.status.code(), Some(1), "{}", said(&bad));
    let text = out(&bad);
    assert!(text.contains("status 503, expected 2xx") && text.contains("x-a: b"), "{text}");
}

#[test]
fn programs_get_an_object_and_prometheus_its_metrics() {
    let (world, at) = (World::new(), server());
    let url = format!("http://{at}/good");
    let look: Value = serde_json::from_slice(&probe(&world, &[&url, "--format", "json"]).stdout).unwrap();
    assert_eq!((look["outcome"].as_str(), look["why"].as_str()), (Some("good"), None));
    let status = look["facts"].as_array().unwrap().iter().find(|fact| fact["name"] == "status").unwrap();
    assert_eq!(status["figure"], 200.0);
    assert!(look["latency_ms"].as_f64().unwrap() >= look["phases_ms"]["first byte"].as_f64().unwrap());

    let metrics = out(&probe(&world, &[&format!("http://{at}/bad"), "--format", "prometheus"]));
    for line in [
        "probe_success 0",
        "probe_http_status_code 503",
        "probe_http_ssl 0",
        "probe_http_uncompressed_body_length 11",
    ] {
        assert!(metrics.lines().any(|told| told == line), "{line}: {metrics}");
    }
    assert!(metrics.contains("probe_http_duration_seconds{phase=\"processing\"} 0."), "{metrics}");
    assert!(!metrics.contains("probe_figure"), "{metrics}");

    let file = format!(
        "[probe.jobs.metric]\nurl = 'http://{at}/metrics'\nname = 'jobs'\nrate = '20/s'\nexpect = {{ below = 7 }}\n"
    );
    std::fs::write(world.folder.path().join("jobs.toml"), file).unwrap();
    let metrics = out(&probe(&world, &["jobs.toml", "--format", "prometheus"]));
    assert!(metrics.contains("probe_success 0\n") && metrics.contains("\nprobe_figure 7\n"), "{metrics}");
}

#[test]
fn a_series_is_counted_on_its_grid_and_its_bad_looks_decide() {
    let (world, at) = (World::new(), server());
    let good = probe(&world, &[&format!("http://{at}/good"), "--count", "7", "--rate", "100/s"]);
    assert_eq!(good.status.code(), Some(0), "{}", said(&good));
    assert!(out(&good).contains("7 looks at 100/s: 7 good, 0 bad, 0 missed"), "{}", out(&good));
    let bad = probe(&world, &[&format!("http://{at}/bad"), "--count", "3", "--rate", "100/s"]);
    assert_eq!(bad.status.code(), Some(1));
    assert!(out(&bad).contains("3 times status 503, expected 2xx"), "{}", out(&bad));
}

#[test]
fn probes_of_a_file_are_looked_with_also_when_it_holds_nothing_else() {
    let (world, at) = (World::new(), server());
    let file = world.folder.path().join("ways.toml");
    let ways = format!(
        "[probe.page.http]\nurl = 'http://{at}/good'\nrate = '20/s'\n[probe.port.tcp]\naddress = '{at}'\nrate = '20/s'\n"
    );
    std::fs::write(&file, &ways).unwrap();
    let both = probe(&world, &["ways.toml"]);
    assert_eq!(both.status.code(), Some(0), "{}", said(&both));
    assert!(out(&both).contains("page (http)") && out(&both).contains("port (tcp)"), "{}", out(&both));
    let one = out(&probe(&world, &["ways.toml", "port"]));
    assert!(!one.contains("page") && one.contains("port (tcp)"), "{one}");

    for (arguments, words) in [
        (vec!["ways.toml", "prot"], "there is no probe `prot` in ways.toml; there are: page, port"),
        (vec!["none.toml"], "none.toml: No such file"),
        (vec!["ftp://a"], "ftp://a"),
        (vec!["http://127.0.0.1:1/", "page"], "is none"),
    ] {
        let wrong = probe(&world, &arguments);
        assert_eq!(wrong.status.code(), Some(2), "{arguments:?}: {}", said(&wrong));
        assert!(said(&wrong).contains(words), "{arguments:?}: {}", said(&wrong));
    }
}

#[test]
fn looks_by_chance_come_at_the_same_moments_for_the_same_seed_and_each_retry_is_told() {
    let (world, at) = (World::new(), server());
    let gaps = |seed: &str| -> Vec<i64> {
        let url = format!("http://{at}/good");
        let arguments = ["--count", "20", "--rate", "200/s", "--poisson", "--seed", seed, "--format", "json"];
        let looked = probe(&world, &[&[url.as_str()], &arguments[..]].concat());
        let mut intended: Vec<f64> = out(&looked)
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["intended_ms"].as_f64().unwrap())
            .collect();
        assert_eq!(intended.len(), 20, "{}", said(&looked));
        intended.sort_by(f64::total_cmp);
        intended.windows(2).map(|pair| ((pair[1] - pair[0]) * 1e3).round() as i64).collect()
    };
    let (first, again, other) = (gaps("5"), gaps("5"), gaps("6"));
    assert!(first.iter().zip(&again).all(|(one, other)| one.abs_diff(*other) <= 1), "{first:?} {again:?}");
    assert_ne!(first, other);

    let bad = probe(&world, &[&format!("http://{at}/bad"), "--retries", "2", "--format", "json"]);
    let told: Value = serde_json::from_str(&out(&bad)).unwrap();
    assert_eq!(told["outcome"], "bad", "{}", said(&bad));
    assert_eq!(told["retried"].as_array().unwrap().len(), 2, "{told}");
    assert!(told["latency_ms"].as_f64().unwrap() >= 200.0, "both pauses count: {told}");
}
