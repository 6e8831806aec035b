//! `brownout shop`: one process of the shop that the demo hurts.

use super::Exit;
use crate::shop::{front, replica, store};

#[derive(clap::Args)]
pub(super) struct Shop {
    #[command(subcommand)]
    part: Part,
}

#[derive(clap::Subcommand)]
enum Part {
    /// Spreads requests over the replicas
    Front {
        #[arg(long)]
        port: u16,
        #[arg(long, value_delimiter = ',', required = true)]
        replica_ports: Vec<u16>,
    },
    /// Takes orders
    Replica {
        #[arg(long)]
        name: String,
        #[arg(long)]
        port: u16,
        #[arg(long)]
        store_port: u16,
    },
    /// Counts orders
    Store {
        #[arg(long)]
        port: u16,
    },
}

impl Shop {
    pub(super) async fn run(self) -> Exit {
        let ended = match self.part {
            Part::Front { port, replica_ports } => front(port, replica_ports).await,
            Part::Replica { name, port, store_port } => replica(name, port, store_port).await,
            Part::Store { port } => store(port).await,
        };
        match ended {
            Ok(()) => Exit::Passed,
            Err(why) => {
                eprintln!("error: the shop: {why}");
                Exit::Refused
            }
        }
    }
}
