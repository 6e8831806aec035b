//! Starting a service, and starting it again for as long as it is wanted.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::process::Child;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::ready::until_ready;
use super::spawn::{command, make_dir, port_is_free, tail, user_of};
use super::{Change, SETUP_WITHIN, ServiceError, Spec, Started, Told, Trouble, end, stop};
use crate::base::unit;
use crate::host::process::{self, Identity, Process};
use crate::host::user::User;

/// A restart waits at least so long, so that a service that dies at once does not take the host with it.
const LEAST_PAUSE: Duration = Duration::from_millis(100);
/// Whoever hears may be busy so long; then it misses the change.
const TELLING: Duration = Duration::from_secs(1);
/// A double fork leaves its middle process for so long at most before the one that stays is alone.
const SETTLING: Duration = Duration::from_secs(1);
/// How long a process that was stopped may take to be collected.
const REAPING: Duration = Duration::from_secs(5);

/// A service that runs, or is on its way up again. Dropped, it is supervised no longer, but not stopped:
/// its record is what stops it.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    supervisor: Option<JoinHandle<()>>,
}

/// What the supervisor and the owner share.
#[derive(Debug)]
struct Shared {
    spec: Spec,
    user: Option<User>,
    told: mpsc::Sender<Told>,
    state: Mutex<State>,
    let_go: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// No process may be started any more.
    released: bool,
    main: Option<Identity>,
}

/// Starts a service and waits until it is ready. Its record must be on disk before; whatever was started is
/// stopped by that record, also when this fails or is dropped halfway.
///
/// `told` hears about every change. Whoever does not listen for a second misses one.
///
/// # Errors
/// When it cannot be started, ends before it is ready, or is not ready in time; the error shows its log's
/// last lines.
pub async fn start(spec: Spec, told: mpsc::Sender<Told>) -> Result<Running, ServiceError> {
    let service = spec.name.clone();
    begin(spec, told).await.map_err(|why| ServiceError { service, why })
}

async fn begin(spec: Spec, told: mpsc::Sender<Told>) -> Result<Running, Trouble> {
    let user = user_of(&spec)?;
    port_is_free(&spec)?;
    make_dir(&spec, user.as_ref())?;
    if let Some(setup) = &spec.setup {
        set_up(&spec, setup, user.as_ref()).await?;
    }
    let shared =
        Arc::new(Shared { spec, user, told, state: Mutex::new(State::default()), let_go: Notify::new() });
    let mut running = Running { shared: Arc::clone(&shared), supervisor: None };
    let Some(mut main) = shared.spawn()? else { return Ok(running) };
    shared.tell(Change::Started { pid: main.pid }).await;
    match shared.ready(&mut main).await {
        Outcome::Ready(after) => shared.tell(Change::Ready(after)).await,
        Outcome::Died(how) => return Err(Trouble::Died { how, log: tail(&shared.spec.log) }),
        Outcome::Late(why) => return Err(Trouble::NotReady { why, log: tail(&shared.spec.log) }),
    }
    running.supervisor = Some(tokio::spawn(supervise(shared, main)));
    Ok(running)
}

async fn set_up(spec: &Spec, setup: &[String], user: Option<&User>) -> Result<(), Trouble> {
    let shown = setup.join(" ");
    let failed = |how: String| Trouble::Setup { command: shown.clone(), how, log: tail(&spec.log) };
    let mut child = command(spec, setup, user, true)?
        .kill_on_drop(true)
        .spawn()
        .map_err(|why| failed(format!("cannot be started: {why}")))?;
    match tokio::time::timeout(SETUP_WITHIN, child.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(failed(format!("failed ({status})"))),
        Ok(Err(why)) => Err(failed(format!("was lost: {why}"))),
        Err(_) => Err(failed(format!("took longer than {}", unit::say(SETUP_WITHIN)))),
    }
}

impl Running {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.spec.name
    }

    /// Its port, if it has one.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.shared.spec.port
    }

    /// Its record.
    #[must_use]
    pub fn record(&self) -> Started {
        self.shared.spec.record()
    }

    /// Its main process: the one we started, or, once that has gone to the background, the oldest of what it
    /// left. `None` while it is down.
    #[must_use]
    pub fn main(&self) -> Option<Process> {
        let main = self.shared.state().main.clone()?;
        Process::open(&main).ok().filter(Process::is_alive)
    }

    /// All its living processes, oldest first. Reads all of /proc: a few milliseconds.
    #[must_use]
    pub fn members(&self) -> Vec<Process> {
        self.record().members()
    }

    /// Ends the supervision: when this returns, nothing of it will be started any more. What runs goes on
    /// running.
    pub fn let_go(&self) {
        self.shared.state().released = true;
        self.shared.let_go.notify_one();
    }

    /// Ends the supervision and stops all its processes; see [`stop`].
    ///
    /// # Errors
    /// When some of its processes cannot be ended.
    pub async fn stop(mut self) -> Result<(), ServiceError> {
        self.let_go();
        stop(&self.record()).await?;
        if let Some(supervisor) = self.supervisor.take() {
            let _ = tokio::time::timeout(REAPING, supervisor).await;
        }
        self.shared.tell(Change::Stopped).await;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// The process whose end is the service's end.
struct Main {
    pid: i32,
    started: Instant,
    kind: Kind,
}

enum Kind {
    /// Our own child.
    Child(Child),
    /// What a child that went to the background left behind then; init is its parent now.
    Adopted(Process, Instant),
}

enum Outcome {
    Ready(Duration),
    Died(String),
    Late(String),
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        match self.state.lock() {
            Ok(state) => state,
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    async fn tell(&self, change: Change) {
        let told = Told { service: self.spec.name.clone(), change };
        let _ = self.told.send_timeout(told, TELLING).await;
    }

    /// Starts the main process, unless we were told to let go: one or the other, never both.
    fn spawn(&self) -> Result<Option<Main>, Trouble> {
        let mut state = self.state();
        if state.released {
            return Ok(None);
        }
        let shown = self.spec.command.join(" ");
        let child = command(&self.spec, &self.spec.command, self.user.as_ref(), true)?
            .spawn()
            .map_err(|why| Trouble::System { doing: format!("`{shown}` cannot be started"), why })?;
        // Not collected yet, so the number is still its own.
        let pid = child.id().map_or(0, |pid| pid as i32);
        state.main = Process::of_pid(pid).ok().map(|process| process.identity().clone());
        Ok(Some(Main { pid, started: Instant::now(), kind: Kind::Child(child) }))
    }

    async fn ready(&self, main: &mut Main) -> Outcome {
        let (started, within) = (main.started, self.spec.ready_within);
        let mut last = "it was not asked".to_owned();
        tokio::select! {
            biased;
            how = self.ended(main) => Outcome::Died(how),
            ready = tokio::time::timeout(within, until_ready(&self.spec, self.user.as_ref(), &mut last)) => {
                match ready {
                    Ok(()) => Outcome::Ready(started.elapsed()),
                    Err(_) => Outcome::Late(format!("it is not ready within {}: {last}", unit::say(within))),
                }
            }
        }
    }

    /// Waits for the service's end, however many processes later that is; how it ended.
    async fn ended(&self, main: &mut Main) -> String {
        loop {
            let (how, since) = match &mut main.kind {
                Kind::Child(child) => match child.wait().await {
                    Ok(status) if !status.success() => return status.to_string(),
                    Ok(status) => (status.to_string(), Instant::now()),
                    Err(why) => return why.to_string(),
                },
                Kind::Adopted(process, since) => {
                    while !process.wait_gone(Duration::from_hours(1)).await {}
                    let how = "its background process ended".to_owned();
                    if since.elapsed() > SETTLING {
                        return how;
                    }
                    (how, *since)
                }
            };
            // It ended well: either it is over, or it went to the background.
            let Some(process) = self.background() else { return how };
            main.pid = process.identity().pid;
            self.state().main = Some(process.identity().clone());
            main.kind = Kind::Adopted(process, since);
        }
    }

    /// The oldest of the service's processes that no other of them started.
    fn background(&self) -> Option<Process> {
        let members = self.spec.record().members();
        let pids: Vec<i32> = members.iter().map(|member| member.identity().pid).collect();
        members.into_iter().find(|member| {
            process::parent(member.identity().pid).is_none_or(|parent| !pids.contains(&parent))
        })
    }
}

async fn supervise(shared: Arc<Shared>, mut main: Main) {
    loop {
        let how = shared.ended(&mut main).await;
        shared.state().main = None;
        if shared.state().released {
            return;
        }
        shared.tell(Change::Died(how)).await;
        main = match again(&shared).await {
            Some(main) => main,
            None => return,
        };
    }
}

/// Starts it again, as often as it takes; `None` when it is not to be.
async fn again(shared: &Shared) -> Option<Main> {
    let pause = shared.spec.restart_after?.max(LEAST_PAUSE);
    let mut due = Instant::now() + pause;
    // What the dead one left would hold its port and its files.
    let _ = end(&shared.spec.record()).await;
    loop {
        tokio::select! {
            biased;
            () = shared.let_go.notified() => return None,
            () = tokio::time::sleep_until(due) => {}
        }
        let mut main = match shared.spawn() {
            Ok(main) => main?,
            Err(why) => {
                shared.tell(Change::Died(why.to_string())).await;
                due = Instant::now() + pause;
                continue;
            }
        };
        shared.tell(Change::Started { pid: main.pid }).await;
        match shared.ready(&mut main).await {
            Outcome::Ready(after) => shared.tell(Change::Ready(after)).await,
            Outcome::Late(why) => shared.tell(Change::NotReady(why)).await,
            // Waiting for it once more says at once how it ended.
            Outcome::Died(_) => {}
        }
        return Some(main);
    }
}
