//! How well the probes keep their schedule: `cargo bench --bench probe`.
//!
//! A keep-alive HTTP server (this program, in a process of its own with one thread) is looked at for ten
//! seconds at each rate, by the schedule the engine uses, on a runtime of two workers. Printed are looks a
//! second, the slip (how late we started a look), the latency counted from the intended moment, what was
//! missed or bad, and our own processor time a look (getrusage(2), the server's not included).
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on should say so and stop")]

mod looking;

use std::convert::Infallible;
use std::time::Duration;

use brownout::base::Clock;
use brownout::slo::Outcome;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use looking::{Looks, Server, count, cpu, quantile, runtime, sorted};

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

async fn measure(url: &str, rate: f64, connection: &str) {
    let text = format!("url = '{url}'\nconnection = '{connection}'\nexpect = {{ body = 'ok' }}");
    let before = cpu();
    let begun = std::time::Instant::now();
    let looks = Looks::new("http", &text, rate, FOR).done(Clock::start()).await;
    let (wall, used) = (begun.elapsed(), cpu().saturating_sub(before));
    let (slips, latencies) =
        (sorted(&looks, |look| look.sample.slip()), sorted(&looks, |look| look.sample.latency()));
    println!(
        "{:>10} {rate:>6}/s  {:>8.1}  {:>7.3} {:>7.3} {:>8.3}  {:>7.3} {:>7.3} {:>8.3}  {:>6} {:>5}  {:>8.1}",
        connection,
        looks.len() as f64 / wall.as_secs_f64(),
        quantile(&slips, 0.5),
        quantile(&slips, 0.99),
        quantile(&slips, 1.0),
        quantile(&latencies, 0.5),
        quantile(&latencies, 0.99),
        quantile(&latencies, 1.0),
        count(&looks, Outcome::Missed),
        count(&looks, Outcome::Bad),
        used.as_secs_f64() * 1e6 / looks.len() as f64,
    );
}

fn main() {
    if std::env::args().any(|argument| argument == "--serve") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(serve());
    }
    let server = Server::start("--serve");
    let url = format!("http://127.0.0.1:{}/", server.1);
    println!(
        "connection    rate   looks/s  slip ms: p50   p99      max  latency: p50   p99      max  missed   bad  CPU us/look"
    );
    runtime().block_on(async {
        for (rate, connection) in
            [(10.0, "keep-alive"), (100.0, "fresh"), (1000.0, "keep-alive"), (5000.0, "keep-alive")]
        {
            measure(&url, rate, connection).await;
        }
    });
}
