//! `clock`: processes are told another time of day.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::pause::tracer_of;
use super::{Ability, Aim, Effect, Fault, FaultError, Held, Owed, Refusal, Site, UndoError};
use crate::base::clock::since_boot;
use crate::base::unit::{self, say};
use crate::base::{Clock as Watch, Percent};
use crate::file::{Mistakes, Node, Read};
use crate::hands::vdso::{self, Image, Shift};
use crate::host::process::{Identity, descendants};
use crate::host::rights::{Capability, Dummy, Rights};
use crate::undo::{Claim, Tier};

crate::kind! {
    /// Tells processes another time of day: ahead, behind, or running away.
    ///
    /// What a wrong NTP server, a resumed snapshot or a leap does: certificates, sessions, tokens and caches expire too
    /// early or never, logs go back, and whoever measures a wait by the time of day waits for an hour or not at all.
    ///
    /// It changes the code by which a C library asks the kernel for the time (the vDSO), in the memory of these
    /// processes only, while they run; their children inherit it. The monotonic clock goes on as it is, a process that
    /// makes the system call itself is not fooled, and a program that is executed anew tells the true time. On x86_64.
    ///
    /// Say `offset`, `drift`, or both. The changed code ends by itself a few seconds after `for`, even if nobody is
    /// left to undo it.
    pub struct Clock("clock") {
        /// So far ahead: `"1h"`; behind: `"-1d"`.
        offset: Offset = "0s",
        /// Gained in each second from then on: `"100ms/s"` or `"10%"`; lost: `"-5%"`.
        drift: Drift = "0%",
    }
}

/// The longest that a clock is set ahead or back, and the most that it may gain or lose in a second.
const FARTHEST: Duration = Duration::from_hours(24 * 365 * 10);
/// The changed code tells the true time so long after `for`.
const SPARE: Duration = Duration::from_secs(5);
/// A clock that is so far from where it should be is not as asked; a busy host measures late.
const SLACK: f64 = 0.25;
/// Children that are started while the first ones are set right are set right in a later round.
const ROUNDS: u32 = 5;

/// A duration with a sign, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offset(i64);

/// Nanoseconds a second, with a sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drift(i64);

fn signed(text: &str, parse: impl Fn(&str) -> Result<i64, String>) -> Result<i64, String> {
    let text = text.trim();
    match text.strip_prefix('-') {
        Some(rest) => parse(rest).map(|value| -value),
        None => parse(text.strip_prefix('+').unwrap_or(text)),
    }
}

fn nanoseconds(text: &str) -> Result<i64, String> {
    let length = unit::duration(text).map_err(|why| why.to_string())?;
    Ok(i64::try_from(length.as_nanos()).unwrap_or(i64::MAX))
}

impl Read for Offset {
    const NAME: &'static str = "duration with a sign";

    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let text = String::read(node, mistakes)?;
        match signed(&text, nanoseconds) {
            Ok(offset) => Some(Self(offset)),
            Err(why) => {
                mistakes.error(node.place, why, "such as \"1h\", or \"-1d\" to set it back");
                None
            }
        }
    }

    fn schema() -> Json {
        json!({"type": "string", "pattern": "^[-+]?[0-9]"})
    }
}

impl Read for Drift {
    const NAME: &'static str = "drift";

    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let text = String::read(node, mistakes)?;
        let read = signed(&text, |text| match (text.strip_suffix('%'), text.strip_suffix("/s")) {
            (Some(_), _) => {
                let percent: Percent = text.parse().map_err(|why: unit::NotAQuantity| why.to_string())?;
                Ok((percent.share() * 1e9).round() as i64)
            }
            (_, Some(each)) => nanoseconds(each),
            _ => Err(format!("`{text}` is not a drift")),
        });
        match read {
            // A clock that loses a second each second stands still.
            Ok(drift) if drift.abs() < 1_000_000_000 => Some(Self(drift)),
            Ok(_) => {
                mistakes.error(
                    node.place,
                    format!("a drift of `{text}` is too fast"),
                    "less than 1 s in each second",
                );
                None
            }
            Err(why) => {
                mistakes.error(
                    node.place,
                    why,
                    "such as \"100ms/s\", \"10%\", or \"-5%\" for a clock that loses time",
                );
                None
            }
        }
    }

    fn schema() -> Json {
        json!({"type": "string", "pattern": "^[-+]?[0-9].*(%|/s)$"})
    }
}

/// Who is told another time, and by which mark that is known.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Mistold {
    targets: Vec<Identity>,
    mark: u64,
    /// The seconds since 1970 from which on the true time is told, whatever happens.
    ends: i64,
}

/// What was asked, and since when.
struct Since(Shift, Duration);

impl Fault for Clock {
    type Owed = Mistold;
    const LASTING: bool = true;
    const AIM: Aim = Aim::Process;
    const TIER: Tier = Tier::Watchdog;
    const EXAMPLE: &'static str = r#"[fault.tomorrow.clock]
target = { listen = 8080 }       # the process that listens there
offset = "1d"                    # it believes that it is tomorrow
for    = "30s"
"#;

    async fn survey(&self, site: &Site) -> Result<Mistold, Refusal> {
        site.some_processes()?;
        if self.offset.0 == 0 && self.drift.0 == 0 {
            return Err(
                site.refuse("its clock would stay right".to_owned(), "give it an `offset` or a `drift`")
            );
        }
        let now = seconds();
        if self.offset.0.unsigned_abs() > FARTHEST.as_nanos() as u64
            || now + self.offset.0 / 1_000_000_000 < 0
        {
            return Err(site.refuse("ten years are the farthest".to_owned(), "ask for a smaller `offset`"));
        }
        let image =
            Image::ours().map_err(|why| site.refuse(why.to_string(), "it cannot be done on this host"))?;
        for process in &site.target.processes {
            let pid = process.identity().pid;
            if let Some(tracer) = tracer_of(pid).filter(|tracer| *tracer != 0) {
                let why =
                    format!("process {pid} is traced by process {tracer}, and must stand still for a moment");
                return Err(site.refuse(why, "detach the debugger first"));
            }
            vdso::check(pid, &image).map_err(|why| site.refuse(why.to_string(), "aim at another process"))?;
        }
        // Eight hexadecimal digits fit.
        let mark = u64::from_str_radix(&site.mark(), 16).unwrap_or_default();
        let ends = now + (site.hold + SPARE).as_secs() as i64 + 1;
        Ok(Mistold { targets: site.identities(), mark, ends })
    }

    async fn inject(&self, site: &Site, owed: &Mistold, held: &mut Held) -> Result<(), FaultError> {
        let failed = |why: vdso::VdsoError| FaultError(why.to_string());
        let image = Image::ours().map_err(failed)?;
        let begin = seconds();
        let shift = Shift {
            mark: owed.mark,
            deadline: begin + (site.hold + SPARE).as_secs() as i64 + 1,
            begin,
            offset: self.offset.0,
            drift: self.drift.0,
        };
        held.hold(Since(shift, since_boot()));
        for process in &site.target.processes {
            vdso::shift(process, &image, shift).map_err(failed)?;
        }
        Ok(())
    }

    async fn verify(&self, _: &Site, owed: &Mistold, held: &Held) -> Effect {
        let Some(Since(shift, since)) = held.get() else {
            return Effect::Unverifiable("nothing was changed".to_owned());
        };
        let image = match Image::ours() {
            Ok(image) => image,
            Err(why) => return Effect::Unverifiable(why.to_string()),
        };
        let (mut told, mut right) = (Vec::new(), 0);
        for target in &owed.targets {
            match vdso::ahead(target.pid, &image) {
                Ok(Some(ahead)) => {
                    let gone = since_boot().saturating_sub(*since).as_secs_f64();
                    // It gains from the beginning of the second in which it began.
                    let wanted = shift.offset as f64 / 1e9 + shift.drift as f64 / 1e9 * gone;
                    let ahead = ahead as f64 / 1e9;
                    let slack = SLACK + (shift.drift as f64 / 1e9).abs() * 2.0;
                    right += usize::from((ahead - wanted).abs() <= slack);
                    told.push(ahead);
                }
                Ok(None) => {}
                Err(why) => return Effect::Unverifiable(why.to_string()),
            }
        }
        let shown = told.first().map_or_else(|| "the true time".to_owned(), |ahead| said(*ahead));
        let figures =
            format!("asked {}, {right} of {} processes are told {shown}", self.asked(), owed.targets.len());
        if right == owed.targets.len() { Effect::Confirmed(figures) } else { Effect::Mismatch(figures) }
    }

    /// Nobody but the targets and what they started is told another time.
    async fn spared(&self, _: &Site, owed: &Mistold, _: &Held) -> Option<Effect> {
        let image = Image::ours().ok()?;
        let named: Vec<i32> = owed.targets.iter().map(|target| target.pid).collect();
        let theirs: Vec<i32> = named.iter().flat_map(|pid| descendants(*pid)).collect();
        let others = vdso::shifted(&image, owed.mark);
        let others = others.iter().filter(|pid| !named.contains(pid) && !theirs.contains(pid)).count();
        let figures = format!("{others} processes are told another time");
        Some(if others == 0 { Effect::Confirmed(figures) } else { Effect::Mismatch(figures) })
    }

    fn harm(&self, site: &Site) -> String {
        format!("tells {} another time of day: {}", site.who(), self.asked())
    }

    fn ability(rights: &Rights) -> Ability {
        let tried = || -> Result<(), String> {
            let image = Image::ours().map_err(|why| why.to_string())?;
            let dummy = Dummy::start().map_err(|why| why.to_string())?;
            let process = dummy.process().map_err(|why| why.to_string())?;
            let now = seconds();
            let shift =
                Shift { mark: 1, deadline: now + 60, begin: now, offset: 3_600_000_000_000, drift: 0 };
            vdso::shift(&process, &image, shift).map_err(|why| why.to_string())?;
            match vdso::ahead(process.identity().pid, &image) {
                Ok(Some(ahead)) if (ahead - shift.offset).abs() < 1_000_000_000 => Ok(()),
                Ok(_) => Err("a try took no hold".to_owned()),
                Err(why) => Err(why.to_string()),
            }
        };
        let tier = Some(Tier::Watchdog);
        match tried() {
            Ok(()) if rights.has(Capability::SysPtrace) => Ability::yes("any 64-bit process", tier),
            Ok(()) => {
                Ability::limited("your own processes", tier, "root (CAP_SYS_PTRACE) reaches everybody's")
            }
            Err(why) => Ability::no(why, "it takes ptrace, a writable /proc/PID/mem, and x86_64"),
        }
    }
}

impl Clock {
    fn asked(&self) -> String {
        let offset = said(self.offset.0 as f64 / 1e9);
        let drift = Duration::from_nanos(self.drift.0.unsigned_abs());
        let word = if self.drift.0 > 0 { "gaining" } else { "losing" };
        match (self.offset.0, self.drift.0) {
            (_, 0) => offset,
            (0, _) => format!("{word} {} each second", say(drift)),
            _ => format!("{offset}, {word} {} each second", say(drift)),
        }
    }
}

/// `1 h ahead`, `2 s behind`.
fn said(ahead: f64) -> String {
    let word = if ahead < 0.0 { "behind" } else { "ahead" };
    format!("{} {word}", say(Duration::from_secs_f64((ahead.abs() * 1e3).round() / 1e3)))
}

/// The true time, in seconds since 1970.
fn seconds() -> i64 {
    Watch::start().started().as_second()
}

impl Owed for Mistold {
    async fn undo(&self) -> Result<(), UndoError> {
        let failed = |why: vdso::VdsoError| UndoError(why.to_string());
        let image = Image::ours().map_err(failed)?;
        // Parents first: a child that one starts meanwhile inherits what it has then.
        for target in &self.targets {
            vdso::restore(target.pid, &image, self.mark).map_err(failed)?;
        }
        for _ in 0..ROUNDS {
            let left = vdso::shifted(&image, self.mark);
            if left.is_empty() {
                break;
            }
            for pid in left {
                vdso::restore(pid, &image, self.mark).map_err(failed)?;
            }
        }
        Ok(())
    }

    async fn remains(&self) -> Result<bool, UndoError> {
        let image = Image::ours().map_err(|why| UndoError(why.to_string()))?;
        Ok(!vdso::shifted(&image, self.mark).is_empty())
    }

    fn claims(&self, host: &str) -> Vec<Claim> {
        let thing = |target: &Identity| format!("clock of process {}@{}", target.pid, target.start);
        self.targets.iter().map(|target| Claim::exclusive(host, thing(target))).collect()
    }

    fn tier(&self) -> Tier {
        Tier::Watchdog
    }

    fn by_hand(&self) -> String {
        let pids: Vec<String> = self.targets.iter().map(|target| target.pid.to_string()).collect();
        format!(
            "date -d @{}: from then on processes {} tell the true time by themselves",
            self.ends,
            pids.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::default_value;

    #[test]
    fn offsets_and_drifts_are_read_with_their_sign() {
        for (text, wanted) in
            [("1h", 3_600_000_000_000), ("-1d", -86_400_000_000_000), ("+5ms", 5_000_000), ("0s", 0)]
        {
            assert_eq!(default_value::<Offset>(&format!("\"{text}\"")), Some(Offset(wanted)), "{text}");
        }
        for (text, wanted) in
            [("100ms/s", 100_000_000), ("-5%", -50_000_000), ("10 %", 100_000_000), ("0%", 0)]
        {
            assert_eq!(default_value::<Drift>(&format!("\"{text}\"")), Some(Drift(wanted)), "{text}");
        }
        for text in ["100ms", "1s/s", "200%", "x%", "--5%", ""] {
            assert_eq!(default_value::<Drift>(&format!("\"{text}\"")), None, "{text}");
        }
        for text in ["1", "--1s", "tomorrow", ""] {
            assert_eq!(default_value::<Offset>(&format!("\"{text}\"")), None, "{text}");
        }
    }

    #[test]
    fn what_is_asked_is_said_as_people_do() {
        let asked = |offset, drift| Clock { offset: Offset(offset), drift: Drift(drift) }.asked();
        assert_eq!(asked(3_600_000_000_000, 0), "1 h ahead");
        assert_eq!(asked(-2_000_000_000, 0), "2 s behind");
        assert_eq!(asked(0, 100_000_000), "gaining 100 ms each second");
        assert_eq!(asked(-1_000_000_000, -50_000_000), "1 s behind, losing 50 ms each second");
    }
}
