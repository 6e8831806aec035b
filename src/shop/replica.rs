//! A replica: takes orders, and keeps nothing itself.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use serde_json::json;

use super::line::Line;
use super::{Answer, answer, serve};

/// The store may take so long; after that an order is refused.
const PATIENCE: Duration = Duration::from_millis(300);

struct Replica {
    name: String,
    store: Line,
}

/// `POST /orders` (or GET) takes an order, and answers 503 when the store fails; `/healthz` tells about this
/// process alone, so that a bad store does not take all replicas out at once.
///
/// # Errors
/// When the port cannot be had.
pub async fn replica(name: String, port: u16, store_port: u16) -> io::Result<()> {
    let replica = Arc::new(Replica { name, store: Line::to(store_port) });
    serve(port, move |request| {
        let replica = Arc::clone(&replica);
        async move { replica.answer(&request).await }
    })
    .await
}

impl Replica {
    async fn answer(&self, request: &Request<Incoming>) -> Answer {
        match request.uri().path() {
            "/healthz" => answer(StatusCode::OK, "well\n"),
            "/orders" => match self.store.ask(Method::POST, "/orders", PATIENCE).await {
                Ok((StatusCode::OK, number)) => {
                    let number: u64 = String::from_utf8_lossy(&number).parse().unwrap_or(0);
                    let order = json!({"ok": true, "order": number, "replica": self.name});
                    answer(StatusCode::OK, format!("{order}\n"))
                }
                Ok((status, _)) => self.refuse(&format!("the store said {status}")),
                Err(why) => self.refuse(&format!("the store: {why}")),
            },
            _ => answer(StatusCode::NOT_FOUND, "there is /orders and /healthz\n"),
        }
    }

    fn refuse(&self, why: &str) -> Answer {
        let refusal = json!({"ok": false, "why": why, "replica": self.name});
        answer(StatusCode::SERVICE_UNAVAILABLE, format!("{refusal}\n"))
    }
}
