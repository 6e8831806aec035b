//! How well the probes keep their schedule: `cargo bench --bench probe`.
//!
//! A keep-alive HTTP server (this program, in a process of its own with one thread) is looked at for ten
//! seconds at each rate, by the schedule the engine uses, on a runtime of two workers. Printed are looks a
//! second, the slip (how late we started a look), the latency counted from the intended moment, what was
//! missed or bad, and our own processor time a look (getrusage(2), the server's not included).
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on should say so and stop")]

use std::convert::Infallible;
use std::io::BufRead;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use brownout::base::{Clock, Dice, Rate};
use brownout::probe::{AnyProbe, Beats, News, Rhythm, Schedule, Setting, watch};
use brownout::slo::Outcome;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

const FOR: Duration = Duration::from_secs(10);

/// Serves `ok` for ever, having printed its port.
async fn serve() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap().port());
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let service = service_fn(|_: Request<Incoming>| async {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"ok"))))
        });
        tokio::spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
        );
    }
}

/// The server's process, ended with the benchmark.
struct Server(Child, u16);

impl Server {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg("--serve")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut port = String::new();
        std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut port).unwrap();
        Self(child, port.trim().parse().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    Duration::from_micros((usage.user_time() + usage.system_time()).num_microseconds() as u64)
}

fn quantile(sorted: &[Duration], share: f64) -> f64 {
    let at = ((sorted.len() as f64 * share) as usize).min(sorted.len() - 1);
    sorted[at].as_secs_f64() * 1e3
}

async fn measure(url: &str, rate: f64, connection: &str) {
    let text = format!("url = '{url}'\nconnection = '{connection}'\nexpect = {{ body = 'ok' }}");
    let setting = Setting {
        directory: "/".into(),
        timeout: Duration::from_secs(1),
        facts: false,
        whom: None,
        from: None,
    };
    let prober = Arc::new(AnyProbe::from_toml("http", &text).unwrap().prober(&setting).unwrap());
    let rhythm = Rhythm::even(Rate::per_second(rate).unwrap());
    let beats = Beats::begun(rhythm, &Dice::new(1), "p");
    let schedule = Schedule::now(beats, setting.timeout.into(), 1000, &Clock::start());
    let (news, mut heard) = tokio::sync::mpsc::channel(4096);
    let before = cpu();
    let begun = std::time::Instant::now();
    let watching = tokio::spawn(watch(0, prober, schedule, Clock::start(), news, tokio::time::sleep(FOR)));
    let (mut slips, mut latencies, mut missed, mut bad) = (Vec::new(), Vec::new(), 0, 0);
    while let Some(news) = heard.recv().await {
        let News::Settled(look) = news else { continue };
        match look.sample.outcome {
            Outcome::Missed => missed += 1,
            Outcome::Bad => bad += 1,
            Outcome::Good => {}
        }
        slips.push(look.sample.slip());
        latencies.push(look.sample.latency());
    }
    watching.await.unwrap();
    let (wall, used) = (begun.elapsed(), cpu().saturating_sub(before));
    slips.sort_unstable();
    latencies.sort_unstable();
    println!(
        "{:>10} {rate:>6}/s  {:>8.1}  {:>7.3} {:>7.3} {:>8.3}  {:>7.3} {:>7.3} {:>8.3}  {missed:>6} {bad:>5}  {:>8.1}",
        connection,
        slips.len() as f64 / wall.as_secs_f64(),
        quantile(&slips, 0.5),
        quantile(&slips, 0.99),
        quantile(&slips, 1.0),
        quantile(&latencies, 0.5),
        quantile(&latencies, 0.99),
        quantile(&latencies, 1.0),
        used.as_secs_f64() * 1e6 / slips.len() as f64,
    );
}

fn main() {
    if std::env::args().any(|argument| argument == "--serve") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(serve());
    }
    let server = Server::start();
    let url = format!("http://127.0.0.1:{}/", server.1);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    println!(
        "connection    rate   looks/s  slip ms: p50   p99      max  latency: p50   p99      max  missed   bad  CPU us/look"
    );
    runtime.block_on(async {
        for (rate, connection) in
            [(10.0, "keep-alive"), (100.0, "fresh"), (1000.0, "keep-alive"), (5000.0, "keep-alive")]
        {
            measure(&url, rate, connection).await;
        }
    });
}
