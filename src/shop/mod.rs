//! Floor 2: a small shop to practise on: a front, two replicas, a store, each a process of our own binary.
//!
//! It is a real system in small: keep-alive connections, time-outs, retries, health checks. The demo hurts
//! it, and so do our own tests.

mod front;
mod line;
mod replica;
mod store;

use std::io;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;

pub use front::front;
pub use replica::replica;
pub use store::store;

/// The demo's experiment, where traffic can be delayed.
pub const EXPERIMENT: &str = include_str!("demo.toml");
/// The demo's experiment where it cannot: the store stands still for moments instead.
pub const WITHOUT_LATENCY: &str = include_str!("demo-without-latency.toml");

/// Connections served at one time; more wait to be accepted.
const CONNECTIONS: usize = 1024;

type Answer = Response<Full<Bytes>>;

fn answer(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer
}

/// Answers requests on a port of the loopback interface until SIGTERM, which ends it at once.
async fn serve<S, F>(port: u16, shop: S) -> io::Result<()>
where
    S: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    static PLACES: Semaphore = Semaphore::const_new(CONNECTIONS);

    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let mut term = signal(SignalKind::terminate())?;
    loop {
        let accept = async {
            let place = PLACES.acquire().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            _ = term.recv() => return Ok(()),
            accepted = accept => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(10)).await; // Out of descriptors, for a moment.
            continue;
        };
        let _ = stream.set_nodelay(true);
        let shop = shop.clone();
        tokio::spawn(async move {
            let _place = place;
            let service = service_fn(move |request| {
                let answering = shop(request);
                async move { Ok::<_, std::convert::Infallible>(answering.await) }
            });
            // A customer who hangs up is no matter.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener as Std;

    use hyper::Method;

    use super::line::Line;
    use super::*;

    fn free_port() -> u16 {
        Std::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    async fn ask(port: u16, method: Method, path: &str) -> (u16, String) {
        let line = Line::to(port);
        for _ in 0..400 {
            if let Ok((status, body)) = line.ask(method.clone(), path, Duration::from_secs(10)).await {
                return (status.as_u16(), String::from_utf8_lossy(&body).into_owned());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("port {port} never answers");
    }

    #[tokio::test]
    async fn an_order_goes_from_the_front_to_the_store_and_a_lost_replica_is_not_noticed() {
        let [store_port, a, b, front_port] = [free_port(), free_port(), free_port(), free_port()];
        let parts = [
            tokio::spawn(store(store_port)),
            tokio::spawn(replica("a".to_owned(), a, store_port)),
            tokio::spawn(replica("b".to_owned(), b, store_port)),
            tokio::spawn(front(front_port, vec![a, b])),
        ];
        for port in [store_port, a, b] {
            ask(port, Method::GET, "/healthz").await;
        }
        let mut who = std::collections::BTreeSet::new();
        while who.len() < 2 {
            let (status, body) = ask(front_port, Method::POST, "/orders").await;
            assert_eq!(status, 200, "{body}");
            let order: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(order["ok"], true);
            who.insert(order["replica"].as_str().unwrap().to_owned());
        }
        parts[1].abort(); // Its listener is closed; connections it had may go on until they are used.
        for _ in 0..50 {
            let (status, body) = ask(front_port, Method::POST, "/orders").await;
            assert_eq!(status, 200, "{body}");
        }
        let (status, sold) = ask(store_port, Method::GET, "/orders").await;
        assert!(status == 200 && sold.parse::<u64>().unwrap() >= 52, "{sold}");
        for part in parts {
            part.abort();
        }
    }

    #[tokio::test]
    async fn without_a_store_an_order_is_refused_in_time_and_the_replica_stays_healthy() {
        // It accepts and never answers.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = free_port();
        let part = tokio::spawn(replica("a".to_owned(), port, silent.local_addr().unwrap().port()));
        assert_eq!(ask(port, Method::GET, "/healthz").await.0, 200);
        let (status, body) = ask(port, Method::POST, "/orders").await;
        assert_eq!(status, 503);
        assert!(body.contains("300 ms"), "{body}");
        assert_eq!(ask(port, Method::GET, "/nowhere").await.0, 404);
        part.abort();
    }

    #[test]
    fn the_demo_is_toml_and_starts_the_shop_whole() {
        for text in [EXPERIMENT, WITHOUT_LATENCY] {
            let table = toml::de::DeTable::parse(text).unwrap();
            let services = table.get_ref().get("service").unwrap().get_ref().as_table().unwrap();
            assert_eq!(services.len(), 4);
        }
        assert!(EXPERIMENT.contains(".latency]") && !WITHOUT_LATENCY.contains(".latency]"));
    }

    #[tokio::test]
    async fn a_front_without_replicas_says_so() {
        let port = free_port();
        let part = tokio::spawn(front(port, vec![free_port(), free_port()]));
        assert_eq!(ask(port, Method::POST, "/orders").await.0, 502);
        part.abort();
    }
}
