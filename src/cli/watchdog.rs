//! `brownout watchdog`: not for people.

use std::path::PathBuf;

use super::Exit;
use crate::engine;
use crate::host::process::{Identity, boot_id};

#[derive(clap::Args)]
pub(super) struct Guard {
    log: PathBuf,
    pid: i32,
    start: u64,
}

impl Guard {
    pub(super) async fn run(self) -> Exit {
        let runner = Identity { pid: self.pid, start: self.start, boot: boot_id() };
        match engine::guard(&self.log, &runner).await {
            Ok(unpaid) if unpaid.is_empty() => Exit::Passed,
            Ok(_) => Exit::NotUndone,
            Err(_) => Exit::Bug,
        }
    }
}
