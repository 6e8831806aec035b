//! The front: spreads requests over the replicas that are well.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};

use super::line::{Line, NoAnswer};
use super::{Answer, answer, serve};

/// How often each replica is asked whether it is well, and how long it may think about it.
const CHECK_EVERY: Duration = Duration::from_millis(200);
const CHECK_WITHIN: Duration = Duration::from_millis(150);
/// A replica may take so long with a request.
const PATIENCE: Duration = Duration::from_secs(1);

struct Replica {
    line: Line,
    well: AtomicBool,
}

struct Front {
    replicas: Vec<Replica>,
    turn: AtomicUsize,
}

/// Passes every request to a replica, in turn, and to the next one when a connection fails. Its own `/healthz`
/// says whether any replica is well.
///
/// # Errors
/// When the port cannot be had.
pub async fn front(port: u16, replica_ports: Vec<u16>) -> io::Result<()> {
    let replica = |port| Replica { line: Line::to(port), well: AtomicBool::new(true) };
    let replicas = replica_ports.into_iter().map(replica).collect();
    let front = Arc::new(Front { replicas, turn: AtomicUsize::new(0) });
    for which in 0..front.replicas.len() {
        tokio::spawn(Arc::clone(&front).check(which));
    }
    serve(port, move |request| {
        let front = Arc::clone(&front);
        async move { front.answer(&request).await }
    })
    .await
}

impl Front {
    async fn check(self: Arc<Self>, which: usize) {
        let Some(replica) = self.replicas.get(which) else { return };
        let mut every = tokio::time::interval(CHECK_EVERY);
        loop {
            every.tick().await;
            let asked = replica.line.ask(Method::GET, "/healthz", CHECK_WITHIN).await;
            let well = asked.is_ok_and(|(status, _)| status == StatusCode::OK);
            replica.well.store(well, Ordering::Relaxed);
        }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Answer {
        let any_well = self.replicas.iter().any(|replica| replica.well.load(Ordering::Relaxed));
        if request.uri().path() == "/healthz" {
            return if any_well {
                answer(StatusCode::OK, "well\n")
            } else {
                answer(StatusCode::SERVICE_UNAVAILABLE, "no replica is well\n")
            };
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let count = self.replicas.len();
        // Those that are well first, each in its turn; the others are better than nothing.
        let order = (0..count).filter_map(|n| self.replicas.get((turn + n) % count));
        let (well, ill): (Vec<&Replica>, Vec<&Replica>) =
            order.partition(|replica| replica.well.load(Ordering::Relaxed));
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        for replica in well.into_iter().chain(ill) {
            match replica.line.ask(request.method().clone(), path, PATIENCE).await {
                Ok((status, body)) => return answer(status, body),
                Err(NoAnswer::Broken(_)) => replica.well.store(false, Ordering::Relaxed),
                // It may have been done all the same: nobody else is asked.
                Err(why @ NoAnswer::Late(_)) => {
                    return answer(StatusCode::GATEWAY_TIMEOUT, format!("{why}\n"));
                }
            }
        }
        answer(StatusCode::BAD_GATEWAY, "no replica answers\n")
    }
}
