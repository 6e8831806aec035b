//! How other terminals reach a run: a socket beside its undo log, one JSON line an order.
//!
//! `brownout halt`, `go` and `note` write; a thread of the runner's listens and hands on, so that a
//! stuck caller never touches the one who decides. Only root and the run's own user may connect: the
//! socket has mode 0600.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::Sender;

/// What a person asks of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Undo everything and stop.
    Halt {
        /// Who asks.
        who: String,
    },
    /// Let the waiting step begin.
    Go {
        /// Who asks.
        who: String,
    },
    /// Write down what a person knows.
    Note {
        /// Who says it.
        who: String,
        /// What they say.
        text: String,
    },
}

/// An order is one line of at most so many bytes.
const LONGEST: u64 = 16 * 1024;
/// A caller that says nothing for so long is let go.
const PATIENCE: Duration = Duration::from_secs(2);

/// Listens for orders until the process ends. One that cannot be taken at once, because sixteen wait
/// already, is refused.
///
/// # Errors
/// When the socket cannot be made: the run goes on without it.
pub(super) fn listen(socket: &Path, orders: Sender<Order>) -> io::Result<()> {
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    std::thread::Builder::new().name("orders".to_owned()).spawn(move || {
        for caller in listener.incoming().flatten() {
            let answer = match read(&caller).map(|order| orders.try_send(order)) {
                Ok(Ok(())) => "taken",
                Ok(Err(_)) => "the run is ending, or too many orders wait",
                Err(_) => "that is no order",
            };
            let _ = writeln!(&caller, "{answer}");
        }
    })?;
    Ok(())
}

fn read(caller: &UnixStream) -> io::Result<Order> {
    caller.set_read_timeout(Some(PATIENCE))?;
    caller.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(caller.take(LONGEST)).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

/// Says an order to the run that listens on a socket; its answer when it did not take it.
///
/// # Errors
/// When nobody listens there, or the order was not taken.
pub fn say(socket: &Path, order: &Order) -> io::Result<()> {
    let mut run = UnixStream::connect(socket)?;
    run.set_read_timeout(Some(PATIENCE * 2))?;
    writeln!(run, "{}", serde_json::to_string(order)?)?;
    let mut answer = String::new();
    BufReader::new(run.take(LONGEST)).read_line(&mut answer)?;
    if answer.trim() == "taken" { Ok(()) } else { Err(io::Error::other(answer.trim().to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_reaches_the_run_and_nonsense_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("run.sock");
        let (sender, mut orders) = tokio::sync::mpsc::channel(1);
        listen(&socket, sender).unwrap();
        let note = Order::Note { who: "ann".to_owned(), text: "the pager rang".to_owned() };
        say(&socket, &note).unwrap();
        let full = say(&socket, &Order::Go { who: "bob".to_owned() }).unwrap_err();
        assert!(full.to_string().contains("too many orders wait"));
        assert_eq!(orders.blocking_recv(), Some(note));
        let mut stranger = UnixStream::connect(&socket).unwrap();
        stranger.write_all(b"GET / HTTP/1.1\n").unwrap();
        let mut answer = String::new();
        BufReader::new(stranger).read_line(&mut answer).unwrap();
        assert_eq!(answer, "that is no order\n");
        assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
