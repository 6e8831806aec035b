//! `host`: has this machine, or a target on it, as much of something as it should?

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::figure::Expect;
use super::{Aim, Miss, Probe, Prober, Setting, Trace, Whom, timed};
use crate::host::cpu::{self, Idleness};
use crate::host::disk::Room;
use crate::host::interface::Carried;
use crate::host::memory;
use crate::host::pressure::{self, Want};
use crate::host::process::{Identity, Process, cpu_time};

/// Between the two readings of a look that has none before it, at most.
const PAUSE: Duration = Duration::from_millis(100);
/// What grows in less time than this tells nothing: the kernel counts processor time in ticks as long.
const SHORTEST: Duration = Duration::from_millis(10);

crate::kind! {
    /// Reads one figure of this machine, or of the processes of a target on it.
    ///
    /// What is told per second is what was done since the look before; the first look reads twice. Of a target all processes
    /// that fit count, whatever its `pick` says, and their sum is judged; without any the look is bad, unless it is their
    /// number that is looked at.
    pub struct Host("host") {
        /// Which. `cpu`: the share of time in which processors were busy; of a target, how many it kept busy. `load`: that of
        /// the last minute. `memory-available`; `memory-used`, of a target what it has in memory. `disk-free`, `disk-free-share`,
        /// `inodes-free`, `inodes-free-share`: where `path` lies, for whoever is not root. `received` and `sent` bytes, `errors` and
        /// `drops` a second: of an `interface`, for a target in its network. `cpu-pressure`, `memory-pressure`, `io-pressure`: the
        /// share of time in which somebody waited for it, and `memory-pressure-full`, `io-pressure-full`, everybody. Of a target:
        /// `fds`, `threads`, `processes`, and `restarts`, which are processes that ended and have another in their place.
        of: Of = required,
        /// For `disk-free` and its like: a file or folder on the file system, from the experiment file's directory on.
        path: PathBuf = optional,
        /// For `received` and its like: the name of the interface.
        interface: String = optional,
        /// What the figure must be: `above` and `below`, such as `"80%"`, `"2GiB"` or 0.5.
        expect: Expect = required,
    }
}

/// Which figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// Processors that are busy.
    Cpu,
    /// Of the last minute.
    Load,
    /// Bytes that can be had.
    MemoryAvailable,
    /// Bytes that cannot.
    MemoryUsed,
    /// Something of a file system.
    Disk(Free),
    /// Something that an interface does.
    Network(Flow),
    /// Tasks that wait for something, some or all.
    Pressure(Want, bool),
    /// Open files.
    Fds,
    /// Threads.
    Threads,
    /// Processes.
    Processes,
    /// Processes that were replaced.
    Restarts,
}

/// What is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Free {
    /// Bytes.
    Bytes,
    /// Their share.
    Share,
    /// Inodes.
    Inodes,
    /// Their share.
    InodesShare,
}

/// What flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Bytes in.
    Received,
    /// Bytes out.
    Sent,
    /// Packets that were wrong.
    Errors,
    /// Packets that were dropped.
    Drops,
}

macro_rules! figures {
    ($($word:literal => $of:expr),* $(,)?) => {
        crate::words!(Of, "word", $($word => $of),*);

        impl fmt::Display for Of {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                $(if *self == $of { return f.write_str($word); })*
                Ok(())
            }
        }
    };
}

figures! {
    "cpu" => Of::Cpu, "load" => Of::Load,
    "memory-available" => Of::MemoryAvailable, "memory-used" => Of::MemoryUsed,
    "disk-free" => Of::Disk(Free::Bytes), "disk-free-share" => Of::Disk(Free::Share),
    "inodes-free" => Of::Disk(Free::Inodes), "inodes-free-share" => Of::Disk(Free::InodesShare),
    "received" => Of::Network(Flow::Received), "sent" => Of::Network(Flow::Sent),
    "errors" => Of::Network(Flow::Errors), "drops" => Of::Network(Flow::Drops),
    "cpu-pressure" => Of::Pressure(Want::Cpu, false),
    "memory-pressure" => Of::Pressure(Want::Memory, false),
    "memory-pressure-full" => Of::Pressure(Want::Memory, true),
    "io-pressure" => Of::Pressure(Want::Io, false), "io-pressure-full" => Of::Pressure(Want::Io, true),
    "fds" => Of::Fds, "threads" => Of::Threads, "processes" => Of::Processes, "restarts" => Of::Restarts,
}

/// Reads, again and again.
pub struct HostProber {
    expect: Expect,
    called: String,
    pause: Duration,
    source: Arc<Source>,
    earlier: Arc<Mutex<Option<Seen>>>,
}

/// Where the figure is read.
struct Source {
    of: Of,
    path: PathBuf,
    interface: String,
    whom: Option<Whom>,
}

impl Probe for Host {
    type Prober = HostProber;
    const AIMS: bool = true;
    const EXAMPLE: &'static str = r#"[probe.memory.host]
of     = "memory-used"
target = { exe = "redis-server" }
expect = { below = "2GiB" }
every  = "1s"
"#;

    fn check(&self) -> Result<(), (String, String)> {
        let Self { of, path, interface, .. } = self;
        let fields = [
            ("path", path.is_some(), matches!(of, Of::Disk(_)), "path = \"/var\""),
            ("interface", interface.is_some(), matches!(of, Of::Network(_)), "interface = \"eth0\""),
        ];
        for (field, given, wanted, example) in fields {
            if given && !wanted {
                return Err((format!("`{of}` takes no `{field}`"), "remove it".to_owned()));
            }
            if wanted && !given {
                return Err((format!("`{of}` wants its `{field}`"), format!("add `{example}`")));
            }
        }
        Ok(())
    }

    fn aim(&self) -> Aim {
        match self.of {
            Of::Cpu | Of::MemoryUsed | Of::Network(_) => Aim::Either,
            Of::Fds | Of::Threads | Of::Processes | Of::Restarts => Aim::Processes,
            Of::Load | Of::MemoryAvailable | Of::Disk(_) | Of::Pressure(..) => Aim::Nothing,
        }
    }

    fn prober(&self, setting: &Setting) -> Result<HostProber, String> {
        if let Of::Pressure(want, full) = self.of {
            pressure::stood_still(want, full).map_err(|why| why.to_string())?;
        }
        let whose = setting.whom.as_ref().map(|whom| format!(" of {}", whom.target.selector));
        let source = Source {
            of: self.of,
            path: self.path.as_ref().map(|path| setting.directory.join(path)).unwrap_or_default(),
            interface: self.interface.clone().unwrap_or_default(),
            whom: setting.whom.clone(),
        };
        Ok(HostProber {
            expect: self.expect.clone(),
            called: self.looks_at() + &whose.unwrap_or_default(),
            pause: PAUSE.min(setting.timeout / 4),
            source: Arc::new(source),
            earlier: Arc::default(),
        })
    }

    fn looks_at(&self) -> String {
        let Self { of, path, interface, .. } = self;
        let at = path.as_ref().map(|path| format!(" at {}", path.display()));
        let by = interface.as_ref().map(|interface| format!(" by {interface}"));
        of.to_string() + &at.or(by).unwrap_or_default()
    }
}

impl Prober for HostProber {
    async fn look(&self, trace: &mut Trace) -> Result<(), Miss> {
        let mut earlier = self.earlier.clone().lock_owned().await;
        let figure = loop {
            let source = self.source.clone();
            // A file system may hang; that must delay no other look.
            let reading = tokio::task::spawn_blocking(move || {
                let figure = source.figure(&mut earlier);
                (earlier, figure)
            });
            let read =
                timed(&mut trace.first_byte, reading).await.map_err(|why| Miss::ours(why.to_string()))?;
            earlier = read.0;
            if let Some(figure) = read.1? {
                break figure;
            }
            tokio::time::sleep(self.pause).await;
        };
        drop(earlier);
        self.expect.judge(&self.called, figure, trace)
    }
}

/// What was read of something that grows, and when.
struct Seen {
    at: Instant,
    what: Grows,
}

enum Grows {
    Idle(Idleness),
    Total(f64),
    /// The processor time of each process.
    Used(BTreeMap<Identity, Duration>),
    /// Who lived, and how many had ended whose place was empty.
    Lives(Vec<Identity>, usize),
}

impl Source {
    /// The figure; `None` when it takes another reading later.
    fn figure(&self, earlier: &mut Option<Seen>) -> Result<Option<f64>, Miss> {
        let ours = |why: io::Error| Miss::ours(why.to_string());
        let grows = match self.of {
            Of::Load => return cpu::load().map(Some).map_err(ours),
            Of::MemoryAvailable => return memory::available().map(|bytes| Some(bytes as f64)).map_err(ours),
            Of::Disk(free) => return self.free(free).map(Some),
            Of::MemoryUsed if self.whom.is_none() => {
                return memory::used().map(|bytes| Some(bytes as f64)).map_err(ours);
            }
            Of::MemoryUsed => return self.sum(|process| Ok(memory::resident(process.identity().pid))),
            Of::Threads => return self.sum(|process| Ok(Some(process.threads().len() as u64))),
            Of::Fds => {
                return self.sum(|process| match process.open_files() {
                    Ok(count) => Ok(Some(count as u64)),
                    Err(_) if !process.is_alive() => Ok(None),
                    Err(why) => Err(Miss::ours(why.to_string())),
                });
            }
            Of::Processes => return Ok(Some(self.processes()?.len() as f64)),
            Of::Restarts => return self.restarts(earlier).map(Some),
            Of::Cpu if self.whom.is_none() => Grows::Idle(Idleness::now().map_err(ours)?),
            Of::Cpu => Grows::Used(
                self.some_processes()?
                    .iter()
                    .filter_map(|process| {
                        Some((process.identity().clone(), cpu_time(process.identity().pid)?))
                    })
                    .collect(),
            ),
            Of::Network(flow) => Grows::Total(self.carried(flow)?),
            Of::Pressure(want, full) => {
                Grows::Total(pressure::stood_still(want, full).map_err(ours)?.as_secs_f64())
            }
        };
        let now = Seen { at: Instant::now(), what: grows };
        let figure = earlier.as_ref().and_then(|earlier| now.since(earlier));
        // Readings that are too close are one: the next is held against the first of them.
        if figure.is_some() || earlier.as_ref().is_none_or(|earlier| now.at - earlier.at >= SHORTEST) {
            *earlier = Some(now);
        }
        Ok(figure)
    }

    fn free(&self, free: Free) -> Result<f64, Miss> {
        let room =
            Room::on(&self.path).map_err(|why| Miss::new(format!("{}: {why}", self.path.display())))?;
        Ok(match free {
            Free::Bytes => room.bytes as f64,
            Free::Share => room.share,
            Free::Inodes => room.inodes as f64,
            Free::InodesShare => room.inodes_share,
        })
    }

    fn carried(&self, flow: Flow) -> Result<f64, Miss> {
        let inside = match &self.whom {
            Some(_) => self.some_processes()?.first().map(|process| process.identity().pid),
            None => None,
        };
        let carried = Carried::by(&self.interface, inside).map_err(|why| Miss::new(why.to_string()))?;
        Ok(match flow {
            Flow::Received => carried.received,
            Flow::Sent => carried.sent,
            Flow::Errors => carried.errors,
            Flow::Drops => carried.drops,
        } as f64)
    }

    /// How many processes have taken the place of others since the reading before.
    fn restarts(&self, earlier: &mut Option<Seen>) -> Result<f64, Miss> {
        let alive: Vec<Identity> =
            self.processes()?.iter().map(|process| process.identity().clone()).collect();
        let (mut places, mut restarts) = (0, 0);
        if let Some(Seen { what: Grows::Lives(before, empty), .. }) = earlier {
            let fresh = alive.iter().filter(|one| !before.contains(one)).count();
            places = *empty + before.iter().filter(|one| !alive.contains(one)).count();
            restarts = fresh.min(places);
        }
        *earlier = Some(Seen { at: Instant::now(), what: Grows::Lives(alive, places - restarts) });
        Ok(restarts as f64)
    }

    /// The sum of what is told of each process; one that ended meanwhile adds nothing.
    fn sum(&self, each: impl Fn(&Process) -> Result<Option<u64>, Miss>) -> Result<Option<f64>, Miss> {
        let told = self.some_processes()?.iter().map(each).collect::<Result<Vec<_>, _>>()?;
        Ok(Some(told.into_iter().flatten().sum::<u64>() as f64))
    }

    fn some_processes(&self) -> Result<Vec<Process>, Miss> {
        let found = self.processes()?;
        let nobody = || self.whom.iter().map(|whom| whom.target.selector.to_string()).collect::<String>();
        if found.is_empty() {
            Err(Miss::new(format!("there is no process of {}", nobody())))
        } else {
            Ok(found)
        }
    }

    fn processes(&self) -> Result<Vec<Process>, Miss> {
        let mut found = self.whom.as_ref().map_or_else(|| Ok(Vec::new()), Whom::processes)?;
        found.retain(Process::is_alive);
        Ok(found)
    }
}

impl Seen {
    /// What it grew in a second since an earlier reading; `None` when that tells nothing.
    fn since(&self, earlier: &Self) -> Option<f64> {
        let took = self.at.checked_duration_since(earlier.at).filter(|took| *took >= SHORTEST)?;
        let grown = match (&self.what, &earlier.what) {
            (Grows::Idle(now), Grows::Idle(before)) => return now.share_since(before).map(|idle| 1.0 - idle),
            // An interface that was made anew counts anew.
            (Grows::Total(now), Grows::Total(before)) => (now - before >= 0.0).then_some(now - before)?,
            // A process that was not there before tells nothing yet.
            (Grows::Used(now), Grows::Used(before)) => now
                .iter()
                .filter_map(|(process, used)| Some(used.saturating_sub(*before.get(process)?).as_secs_f64()))
                .sum(),
            _ => return None,
        };
        Some(grown / took.as_secs_f64())
    }
}
