//! `io`: a disk is busy, with reads and writes of ours that nobody needs.

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::stat::{major, minor};
use serde::{Deserialize, Serialize};

use super::disk_fill::free_bytes;
use super::{Ability, Aim, Effect, Fault, FaultError, Held, Owed, Refusal, Site, UndoError};
use crate::base::clock::since_boot;
use crate::base::{Bytes, Throughput};
use crate::hands::burner::is_there;
use crate::hands::churn::{Churn, Order, Tally};
use crate::host::disk::Disk;
use crate::host::process::Identity;
use crate::host::rights::Rights;
use crate::undo::{Claim, Tier};

/// What is read and written is measured over so long.
const MEASURING: Duration = Duration::from_secs(1);
/// A load that got less than asked did take hold when it waited for the disk for such a share of the time.
const HARDLY_IDLE: f64 = 0.9;
/// So many threads do what nobody needs.
const MOST_WORKERS: u32 = 64;
/// The last of them must be gone so long after it was told: a disk that is slow answers late.
const GOING: Duration = Duration::from_secs(10);

crate::kind! {
    /// Keeps a disk busy with reads and writes.
    ///
    /// What a backup, a compaction or a noisy neighbour does. By threads of ours, which read and write pieces of a file
    /// without a name, here and there, past the page cache (O_DIRECT, open(2)); where the file system does not let us, each
    /// write is followed by fdatasync. They end when we do, and the file with them. What is to be read is written first.
    ///
    /// Where the disk does not give what is asked, the load takes all that it gives: ask for more than that to keep it
    /// busy. To slow one program whatever the disk has to spare, use `io-limit`.
    pub struct Io("io") {
        /// How much is read, such as `"50MiB/s"`, by all workers together.
        read: Throughput = optional,
        /// How much is written.
        write: Throughput = optional,
        /// How many read at one time, and how many write: what the disk has in its queue.
        workers: u32 = "1",
        /// How large the file is. A disk with a large cache needs a larger one.
        size: Bytes = "64MiB",
        /// The largest piece that is read or written at once; they are smaller where that makes the load even.
        block: Bytes = "256KiB",
        /// Never leave less than this free: it protects the host.
        floor: Bytes = "16MiB",
    }
}

/// Who reads and writes, by the name of the threads.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Churning {
    path: PathBuf,
    device: u64,
    holder: Identity,
    name: String,
}

impl Io {
    fn order(&self) -> Order {
        let (read, write, workers) = (self.read, self.write, self.workers);
        Order { read, write, size: self.size.0, block: self.block.0, workers }
    }

    /// Each direction that is asked: in words, how much, and where it is counted.
    fn ways<'a>(&self, churn: &'a Churn) -> Vec<([&'static str; 2], Throughput, &'a Tally)> {
        let ways =
            [(["read", "read"], self.read, churn.read()), (["write", "wrote"], self.write, churn.written())];
        ways.into_iter().filter_map(|(verb, rate, tally)| Some((verb, rate?, tally))).collect()
    }
}

impl Fault for Io {
    type Owed = Churning;
    const LASTING: bool = true;
    const AIM: Aim = Aim::Place;
    const TIER: Tier = Tier::Kernel;
    const EXAMPLE: &'static str = r#"[fault.backup-runs.io]
target = { path = "/var/lib/app" }   # on the disk that is meant
read   = "50MiB/s"
write  = "20MiB/s"
for    = "30s"
"#;

    fn check(&self) -> Result<(), (String, String)> {
        if self.read.is_none() && self.write.is_none() {
            return Err((
                "nothing is read or written".to_owned(),
                "add `read = \"50MiB/s\"`, or `write`".to_owned(),
            ));
        }
        if self.workers == 0 || self.workers > MOST_WORKERS {
            return Err((format!("{} workers", self.workers), format!("ask for 1 to {MOST_WORKERS}")));
        }
        let (size, block) = (self.size, self.block);
        if block.0 < 4096 || block > size || block.0 > 16 << 20 {
            return Err((
                format!("pieces of {block} in a file of {size}"),
                "ask for a `block` from \"4KiB\" to \"16MiB\", and for a `size` that holds it".to_owned(),
            ));
        }
        Ok(())
    }

    async fn survey(&self, site: &Site) -> Result<Churning, Refusal> {
        let (path, device) = site.place_to_fill()?;
        let free = free_bytes(&path).map_err(|why| site.unreadable(&path, &why))?;
        if self.size.0 > free.saturating_sub(self.floor.0) {
            return Err(site.refuse(
                format!(
                    "a file of {} would leave less than the floor of {} of the {} free on {}",
                    self.size,
                    self.floor,
                    Bytes(free),
                    path.display()
                ),
                "lower `size`, or `floor`",
            ));
        }
        Ok(Churning { path, device, holder: site.holder.clone(), name: format!("io-{}", site.mark()) })
    }

    async fn inject(&self, site: &Site, owed: &Churning, held: &mut Held) -> Result<(), FaultError> {
        let (order, owed, heartbeat) = (self.order(), owed.clone(), site.heartbeat.clone());
        // What is to be read is written first, which a slow disk takes its time for.
        let churn = move || Churn::start(&owed.path, &order, &owed.name, &heartbeat);
        let churn = tokio::task::spawn_blocking(churn).await.map_err(|why| FaultError(why.to_string()))?;
        held.hold(
            churn.map_err(|why| FaultError(format!("reading and writing a file without a name: {why}")))?,
        );
        Ok(())
    }

    async fn verify(&self, _: &Site, owed: &Churning, held: &Held) -> Effect {
        let Some(churn) = held.get::<Churn>() else {
            return Effect::Mismatch("nothing reads or writes".to_owned());
        };
        let ways = self.ways(churn);
        let disk = Disk::of(&owed.path).ok().flatten();
        let done = || disk.as_ref().and_then(Disk::done);
        let before: Vec<(u64, Duration)> =
            ways.iter().map(|(.., tally)| (tally.bytes(), tally.busy())).collect();
        let (disk_before, begun) = (done(), since_boot());
        tokio::time::sleep(MEASURING).await;
        let took = since_boot().saturating_sub(begun);
        let mut figures = Vec::new();
        let mut all = true;
        for (([verb, did], asked, tally), (bytes, busy)) in ways.iter().zip(before) {
            let got = Throughput::of(tally.bytes().saturating_sub(bytes), took);
            let busy = tally.busy().saturating_sub(busy).as_secs_f64() / took.as_secs_f64();
            let share = busy / f64::from(self.workers);
            all &= is_as_asked(*asked, got, share);
            figures.push(format!(
                "asked to {verb} {asked}, {did} {got}, waiting for {:.0}% of the time",
                100.0 * share.min(1.0)
            ));
        }
        if let (Some(disk), Some(before), Some(after)) = (&disk, disk_before, done()) {
            let rate = |after: u64, before: u64| Throughput::of(after.saturating_sub(before), took);
            let (read, written) = (rate(after.read, before.read), rate(after.written, before.written));
            figures.push(format!("disk {} read {read} and wrote {written} in all", disk.name));
        }
        if !churn.is_direct() {
            figures.push("through the page cache".to_owned());
        }
        if let Some(why) = churn.failed() {
            return Effect::Mismatch(format!("a thread ended: {why}; {}", figures.join("; ")));
        }
        if all { Effect::Confirmed(figures.join("; ")) } else { Effect::Mismatch(figures.join("; ")) }
    }

    fn harm(&self, site: &Site) -> String {
        let place = site.target.place.as_ref().map_or_else(String::new, |path| path.display().to_string());
        let ways = [("reads", self.read), ("writes", self.write)];
        let ways = ways.iter().filter_map(|(verb, rate)| Some(format!("{verb} {}", (*rate)?)));
        format!("{} on the disk of {place}", ways.collect::<Vec<_>>().join(" and "))
    }

    fn ability(rights: &Rights) -> Ability {
        super::disk_fill::DiskFill::ability(rights)
    }
}

/// Whether a load took hold, by what was read or written and how much of the time its threads waited for the disk.
fn is_as_asked(asked: Throughput, got: Throughput, waiting: f64) -> bool {
    // All that a disk gives is all that a load can take.
    got.0 as f64 >= 0.9 * asked.0 as f64 || waiting >= HARDLY_IDLE
}

impl Owed for Churning {
    async fn undo(&self) -> Result<(), UndoError> {
        // The threads have been told, and wait for the disk at most once more.
        let since = since_boot();
        while is_there(&self.holder, &self.name) {
            if since_boot().saturating_sub(since) > GOING {
                return Err(UndoError("a thread still waits for the disk".to_owned()));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    async fn remains(&self) -> Result<bool, UndoError> {
        Ok(is_there(&self.holder, &self.name))
    }

    fn claims(&self, host: &str) -> Vec<Claim> {
        // What two runs measured under one another's load would mean nothing.
        let (major, minor) = (major(self.device), minor(self.device));
        vec![Claim::exclusive(host, format!("disk of file system {major}:{minor}"))]
    }

    fn tier(&self) -> Tier {
        Tier::Kernel
    }

    fn by_hand(&self) -> String {
        format!("end process {} of brownout: its threads and their file end with it", self.holder.pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_took_hold_when_it_got_what_was_asked_or_all_there_was() {
        let mib = |n: u64| Throughput(n << 20);
        assert!(is_as_asked(mib(50), mib(46), 0.1));
        assert!(is_as_asked(mib(5000), mib(300), 0.97), "the disk gives no more");
        assert!(!is_as_asked(mib(50), mib(40), 0.5));
    }
}
