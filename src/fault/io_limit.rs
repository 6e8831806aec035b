//! `io-limit`: processes read and write slowly, whatever the disk has to spare.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::disk_slow::rounded;
use super::fenced::{self, Fenced};
use super::{Ability, Aim, Effect, Fault, FaultError, Held, Refusal, Site};
use crate::base::clock::since_boot;
use crate::base::unit::say;
use crate::base::{Bytes, Throughput};
use crate::hands::fence::{Controller, Fence, FenceError, Ground, Limit};
use crate::host::disk::Disk;
use crate::host::rights::Rights;
use crate::undo::Tier;

/// What the processes read and write is measured over so long.
const MEASURING: Duration = Duration::from_secs(2);
/// A single request may be so large, and was let through as a whole.
const REQUEST: u64 = 1 << 20;
/// Whether others are held back is tried with so many pieces, each so large at most: a disk is hardly busier for that.
const PIECES: u64 = 4;
const PIECE: u64 = 256 << 10;
/// What the limits would let take less than this is too little to tell.
const TELLING: Duration = Duration::from_millis(100);

crate::kind! {
    /// Lets processes read and write slowly, whatever the disk has to spare.
    ///
    /// What a throttled volume, a small instance or a container with limits gets. By the limits of a cgroup (`io.max`, as
    /// systemd's `IOReadBandwidthMax=` sets it, or `blkio.throttle`): the processes go into one of their own where that is
    /// possible (cgroup v1), else their own cgroup gets the limits, which must then hold nobody else (cgroup v2). Children
    /// that they start meanwhile are held back with them.
    ///
    /// What is in the page cache is read as fast as ever, and what is only written to it counts when it reaches the disk: with
    /// cgroup v2 on ext4, btrfs and xfs where memory is limited too, and not at all with v1.
    pub struct IoLimit("io-limit") {
        /// The disk: a directory or file on it, or the block device itself.
        disk: PathBuf = required,
        /// At most so much is read, by all of them together, such as `"5MiB/s"`.
        read: Throughput = optional,
        /// At most so much is written.
        write: Throughput = optional,
        /// At most so many reads a second.
        read_iops: u32 = optional,
        /// At most so many writes a second.
        write_iops: u32 = optional,
    }
}

/// What can be limited: its word in version 2, and its file in version 1 (Linux' Documentation/admin-guide/cgroup-v2.rst,
/// and cgroup-v1/blkio-controller.rst).
const WAYS: [(&str, &str); 4] = [
    ("rbps", "blkio.throttle.read_bps_device"),
    ("wbps", "blkio.throttle.write_bps_device"),
    ("riops", "blkio.throttle.read_iops_device"),
    ("wiops", "blkio.throttle.write_iops_device"),
];
/// Of version 2.
const FILE: &str = "io.max";

impl IoLimit {
    /// As in [`WAYS`].
    fn asked(&self) -> [Option<u64>; 4] {
        let (bytes, times) = (|rate: Throughput| rate.0, |times: u32| u64::from(times));
        [self.read.map(bytes), self.write.map(bytes), self.read_iops.map(times), self.write_iops.map(times)]
    }

    fn limits_writes(&self) -> bool {
        self.write.is_some() || self.write_iops.is_some()
    }

    /// How large the pieces are with which others are tried, and how long they would take if they were held back too;
    /// `None` when that would not tell.
    fn trial(&self) -> Option<(u64, Duration)> {
        let (rate, times) =
            if self.limits_writes() { (self.write, self.write_iops) } else { (self.read, self.read_iops) };
        // One second's worth, as far as a disk is hardly busier for it.
        let piece = rate.map_or(4096, |rate| (rate.0 / PIECES).clamp(4096, PIECE));
        let by_rate = rate.map_or(0.0, |rate| (PIECES * piece) as f64 / rate.0 as f64);
        let by_times = times.map_or(0.0, |times| PIECES as f64 / f64::from(times));
        let limited = Duration::from_secs_f64(by_rate.max(by_times));
        (limited >= TELLING).then_some((piece, limited))
    }

    fn said(&self) -> String {
        let times = |times: u32, what: &str| format!("{what} {times} times a second");
        let said = [
            self.read.map(|rate| format!("read {rate}")),
            self.write.map(|rate| format!("write {rate}")),
            self.read_iops.map(|some| times(some, "read")),
            self.write_iops.map(|some| times(some, "write")),
        ];
        said.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    /// The disk, as the kernel calls it.
    fn disk_name(&self) -> String {
        let disk = Disk::of(&self.disk).ok().flatten();
        disk.map_or_else(|| self.disk.display().to_string(), |disk| disk.name)
    }

    /// The limits to set, beside those that hold already; `None` when one of those is as low.
    fn limits(&self, ground: &Ground, device: &str) -> Result<Option<Vec<Limit>>, FenceError> {
        let limit = |file: &str, without: &str, during: String| Limit {
            file: file.to_owned(),
            device: Some(device.to_owned()),
            without: without.to_owned(),
            during,
        };
        let lower = |asked: Option<u64>, now: Option<u64>| match (asked, now) {
            (Some(asked), Some(now)) if now <= asked => None,
            (asked, now) => Some(asked.or(now)),
        };
        if ground.is_unified() {
            let without = WAYS.map(|(word, _)| format!("{word}=max")).join(" ");
            let now = limit(FILE, &without, String::new()).said_in(&ground.read_as_it_is(FILE)?);
            let mut words = Vec::new();
            for (asked, (word, _)) in self.asked().into_iter().zip(WAYS) {
                let now =
                    now.split(' ').find_map(|one| one.strip_prefix(word)?.strip_prefix('=')?.parse().ok());
                let Some(during) = lower(asked, now) else { return Ok(None) };
                words.push(during.map_or_else(|| format!("{word}=max"), |during| format!("{word}={during}")));
            }
            return Ok(Some(vec![limit(FILE, &without, words.join(" "))]));
        }
        let mut limits = Vec::new();
        for (asked, (_, file)) in self.asked().into_iter().zip(WAYS) {
            let mut one = limit(file, "0", String::new());
            let now = one.said_in(&ground.read_as_it_is(file)?).parse().ok().filter(|now| *now > 0);
            let Some(during) = lower(asked, now) else { return Ok(None) };
            if let Some(during) = during {
                one.during = during.to_string();
                limits.push(one);
            }
        }
        Ok(Some(limits))
    }
}

impl Fault for IoLimit {
    type Owed = Fenced;
    const LASTING: bool = true;
    const AIM: Aim = Aim::Process;
    const TIER: Tier = Tier::Watchdog;
    const EXAMPLE: &'static str = r#"[fault.slow-volume.io-limit]
target = { listen = 5432 }       # the process that listens there
disk   = "/var/lib/postgresql"   # on the disk that is meant
read   = "5MiB/s"
write  = "2MiB/s"
for    = "30s"
"#;

    fn check(&self) -> Result<(), (String, String)> {
        let asked = self.asked();
        if asked.iter().all(Option::is_none) {
            let remedy = "add `read = \"5MiB/s\"`, `write`, `read_iops` or `write_iops`";
            return Err(("nothing is limited".to_owned(), remedy.to_owned()));
        }
        if asked.contains(&Some(0)) {
            return Err(("0 a second would never end".to_owned(), "ask for at least 1".to_owned()));
        }
        Ok(())
    }

    async fn survey(&self, site: &Site) -> Result<Fenced, Refusal> {
        site.some_processes()?;
        let said = self.disk.display();
        let disk =
            Disk::of(&self.disk).map_err(|why| site.unreadable(&self.disk, &why))?.ok_or_else(|| {
                site.refuse(
                    format!("no disk is known on which alone {said} lies"),
                    "name the block device, such as `disk = \"/dev/sda\"`",
                )
            })?;
        let refuse = |why: FenceError| fenced::refusal(site, &why);
        let name = format!("brownout-io-{}", site.mark());
        let ground = Ground::find(Controller::Io, &site.target.pids(), &name).map_err(refuse)?;
        let Some(limits) = self.limits(&ground, &disk.device).map_err(refuse)? else {
            let why = format!("{} has limits on disk {} that are as low as it is", site.who(), disk.name);
            return Err(site.refuse(why, "ask for less"));
        };
        let fence = Fence::plan(ground, limits).map_err(refuse)?;
        Ok(Fenced::of(fence, site))
    }

    async fn inject(&self, site: &Site, owed: &Fenced, held: &mut Held) -> Result<(), FaultError> {
        if let Some((piece, limited)) = self.trial() {
            let (folder, writes) = (self.disk.clone(), self.limits_writes());
            let beside =
                tokio::task::spawn_blocking(move || Beside::of(&folder, piece, writes, limited)).await;
            // Where no file can be made, only that look is not to be had.
            if let Ok(Ok(beside)) = beside {
                held.hold(beside);
            }
        }
        owed.put_up(site)
    }

    async fn spared(&self, _: &Site, _: &Fenced, held: &Held) -> Option<Effect> {
        let beside = held.get::<Beside>()?.again().ok()?;
        let tried = tokio::task::spawn_blocking(move || beside.took().map(|took| beside.judge(took))).await;
        tried.ok()?.ok()
    }

    async fn verify(&self, _: &Site, owed: &Fenced, _: &Held) -> Effect {
        let ground = owed.ground();
        if let Some(out) = owed.outside() {
            return Effect::Mismatch(format!("process {out} is not in the cgroup that has the limits"));
        }
        let Some(device) = owed.fence.limits.first().and_then(|(limit, _)| limit.device.as_deref()) else {
            return Effect::Unverifiable("there is no limit".to_owned());
        };
        let (before, begun) = (done(ground, device), since_boot());
        tokio::time::sleep(MEASURING).await;
        let took = since_boot().saturating_sub(begun);
        let now = done(ground, device);
        let mut figures = Vec::new();
        let mut all = true;
        for (nth, asked) in self.asked().into_iter().enumerate() {
            let Some(asked) = asked else { continue };
            let some = now[nth].saturating_sub(before[nth]);
            let ([verb, did], bytes) = ([["read", "read"], ["write", "wrote"]][nth % 2], nth < 2);
            let most = asked as f64 * took.as_secs_f64() * 1.1 + if bytes { REQUEST as f64 } else { 1.0 };
            all &= some as f64 <= most;
            figures.push(if bytes {
                format!("asked to {verb} at most {}, {did} {}", Throughput(asked), Throughput::of(some, took))
            } else {
                format!(
                    "asked to {verb} at most {asked} times a second, {did} {:.1}",
                    some as f64 / took.as_secs_f64()
                )
            });
        }
        let figures = format!("{} on disk {}", figures.join("; "), self.disk_name());
        if all { Effect::Confirmed(figures) } else { Effect::Mismatch(figures) }
    }

    fn mechanism(&self, owed: &Fenced) -> Option<String> {
        let ground = owed.ground();
        let buffered = if ground.is_unified() {
            ""
        } else {
            "; what is only written to the page cache is not held back"
        };
        Some(format!("{}, on disk {}{buffered}", ground.said(), self.disk_name()))
    }

    fn harm(&self, site: &Site) -> String {
        format!("lets {} {} at most, on the disk of {}", site.who(), self.said(), self.disk.display())
    }

    fn ability(_: &Rights) -> Ability {
        fenced::ability(Controller::Io)
    }
}

/// A file of ours without a name on the same disk, in a process that nobody limits: near by, and not named.
struct Beside {
    file: File,
    piece: u64,
    writes: bool,
    /// How long it took before.
    before: Duration,
    /// How long it would take if it were held back too.
    limited: Duration,
}

impl Beside {
    fn of(folder: &Path, piece: u64, writes: bool, limited: Duration) -> io::Result<Self> {
        let mut how = OpenOptions::new();
        let file = how.read(true).write(true).custom_flags(libc::O_TMPFILE).mode(0o600).open(folder)?;
        let mut beside = Self { file, piece, writes: true, before: Duration::ZERO, limited };
        beside.before = beside.took()?; // What is to be read is written first.
        beside.writes = writes;
        if !writes {
            beside.before = beside.took()?;
        }
        Ok(beside)
    }

    fn again(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, ..*self })
    }

    /// How long it takes until all pieces have reached the disk, or come from it.
    fn took(&self) -> io::Result<Duration> {
        let (mut file, mut piece) = (&self.file, vec![0; self.piece as usize]);
        file.rewind()?;
        posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        let begun = since_boot();
        for _ in 0..PIECES {
            if self.writes {
                file.write_all(&piece)?;
                file.sync_data()?;
            } else {
                file.read_exact(&mut piece)?;
            }
        }
        Ok(since_boot().saturating_sub(begun))
    }

    fn judge(&self, took: Duration) -> Effect {
        let did = if self.writes { "writing" } else { "reading" };
        let figures = format!(
            "{did} {PIECES} times {} took {}, {} before, and would take {} with the limit",
            Bytes(self.piece),
            say(rounded(took)),
            say(rounded(self.before)),
            say(rounded(self.limited))
        );
        if took < self.limited / 2 {
            Effect::Confirmed(figures)
        } else if self.before >= self.limited / 4 {
            // The disk is as slow as the limit by itself.
            Effect::Unverifiable(figures)
        } else {
            Effect::Mismatch(figures)
        }
    }
}

/// What a group has read and written on a disk, in bytes and in requests, as in [`WAYS`].
fn done(ground: &Ground, device: &str) -> [u64; 4] {
    let of = |(file, word): (&str, &str)| {
        let text = ground.read(file).ok().flatten().unwrap_or_default();
        number(&text, device, word).unwrap_or(0)
    };
    if ground.is_unified() {
        return ["rbytes=", "wbytes=", "rios=", "wios="].map(|word| of(("io.stat", word)));
    }
    let (bytes, times) = ("blkio.throttle.io_service_bytes", "blkio.throttle.io_serviced");
    [(bytes, "Read "), (bytes, "Write "), (times, "Read "), (times, "Write ")].map(of)
}

/// The number behind a word, on a line of a device: in version 2 one has all, in version 1 each has one.
fn number(text: &str, device: &str, word: &str) -> Option<u64> {
    let of_device =
        |line: &'_ str| Some(line.strip_prefix(device)?.strip_prefix(' ')?.split_once(word)?.1.to_owned());
    let found = text.lines().find_map(of_device)?;
    found.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_tried_with_little_and_only_where_that_tells() {
        let asked = |write: Option<u64>, read_iops| IoLimit {
            disk: "/".into(),
            read: None,
            write: write.map(Throughput),
            read_iops,
            write_iops: None,
        };
        assert_eq!(asked(Some(256 << 10), None).trial(), Some((64 << 10, Duration::from_secs(1))));
        assert_eq!(asked(Some(4 << 20), None).trial(), Some((PIECE, Duration::from_millis(250))));
        assert_eq!(asked(Some(100 << 20), None).trial(), None);
        assert_eq!(asked(None, Some(8)).trial(), Some((4096, Duration::from_millis(500))));
    }

    #[test]
    fn who_is_as_slow_as_the_limit_was_hit_unless_the_disk_always_is() {
        let folder = tempfile::tempdir().unwrap();
        let ms = Duration::from_millis;
        let mut beside = Beside::of(folder.path(), 4096, false, ms(400)).unwrap();
        beside.took().unwrap();
        beside.before = ms(1);
        assert!(matches!(beside.judge(ms(100)), Effect::Confirmed(_)));
        let Effect::Mismatch(figures) = beside.judge(ms(400)) else { panic!("it was hit") };
        assert_eq!(
            figures,
            "reading 4 times 4 KiB took 400ms, 1ms before, and would take 400ms with the limit"
        );
        beside.before = ms(300);
        assert!(matches!(beside.judge(ms(400)), Effect::Unverifiable(_)));
    }

    #[test]
    fn what_a_group_did_is_read_in_both_versions() {
        let v2 = "253:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n8:0 rbytes=7 wbytes=8 rios=9 wios=10 dbytes=0 dios=0\n";
        assert_eq!([number(v2, "8:0", "wbytes="), number(v2, "3:0", "rios=")], [Some(8), None]);
        let v1 = "253:0 Read 1\n253:0 Write 2\n8:0 Read 3\n8:0 Write 4\nTotal 10\n";
        assert_eq!([number(v1, "8:0", "Read "), number(v1, "8:0", "Write ")], [Some(3), Some(4)]);
    }

    #[test]
    fn what_is_limited_already_stays_so_and_is_never_raised() {
        let folder = tempfile::tempdir().unwrap();
        let ground = |unified: bool| -> Ground {
            let from = if unified { None } else { Some(folder.path()) };
            let group = if unified { folder.path().to_owned() } else { folder.path().join("ours") };
            serde_json::from_value(serde_json::json!({"group": group, "from": from, "unified": unified}))
                .unwrap()
        };
        let asked = |read, write_iops| IoLimit {
            disk: "/".into(),
            read: Some(Throughput(read)),
            write: None,
            read_iops: None,
            write_iops,
        };
        let limits = |fault: &IoLimit, unified| {
            let limits = fault.limits(&ground(unified), "8:0").unwrap()?;
            Some(limits.into_iter().map(|limit| (limit.file, limit.during)).collect::<Vec<_>>())
        };
        let said = |file: &str, during: &str| (file.to_owned(), during.to_owned());
        std::fs::write(folder.path().join("io.max"), "8:16 rbps=1 wbps=1 riops=1 wiops=1\n").unwrap();
        assert_eq!(
            limits(&asked(9, None), true).unwrap(),
            [said("io.max", "rbps=9 wbps=max riops=max wiops=max")]
        );
        std::fs::write(folder.path().join("io.max"), "8:0 rbps=100 wbps=7 riops=max wiops=max\n").unwrap();
        assert_eq!(
            limits(&asked(9, Some(5)), true).unwrap(),
            [said("io.max", "rbps=9 wbps=7 riops=max wiops=5")]
        );
        assert_eq!(limits(&asked(100, Some(5)), true), None);
        for (_, file) in WAYS {
            std::fs::write(folder.path().join(file), "").unwrap();
        }
        std::fs::write(folder.path().join(WAYS[1].1), "8:0 7\n").unwrap();
        assert_eq!(
            limits(&asked(9, Some(5)), false).unwrap(),
            [said(WAYS[0].1, "9"), said(WAYS[1].1, "7"), said(WAYS[3].1, "5")]
        );
    }
}
