//! What the experiment itself starts: in the order of their needs, each recorded before it exists.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use super::conduct::{SharedLog, with_log};
use super::pay::{Unpaid, settle};
use crate::base::RunId;
use crate::experiment::model::{Ready, Service};
use crate::fault::{AnyOwed, Entry};
use crate::hands::service::{self, Running, Spec, Told};
use crate::host::process::{Identity, Process};
use crate::host::target::Endpoint;
use crate::undo::{Number, Record};

/// The services of a run that are there, by name.
#[derive(Debug, Clone, Default)]
pub struct Services {
    running: Arc<Mutex<BTreeMap<String, Up>>>,
    /// Those that are ready. By itself, because whoever decides must not wait for one who asks the system something.
    ready: Arc<Mutex<BTreeSet<String>>>,
}

#[derive(Debug)]
struct Up {
    running: Running,
    number: Number,
}

impl Services {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Up>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The living processes of a service, oldest first.
    #[must_use]
    pub fn members(&self, name: &str) -> Vec<Process> {
        // Its record is taken out first: reading all of /proc takes a while, and others ask too.
        let record = self.lock().get(name).map(|up| up.running.record());
        record.map(|record| record.members()).unwrap_or_default()
    }

    /// Its main process, while it is up.
    #[must_use]
    pub fn main(&self, name: &str) -> Option<Process> {
        self.lock().get(name).and_then(|up| up.running.main())
    }

    /// Where it listens, by its port.
    #[must_use]
    pub fn endpoints(&self, name: &str) -> Vec<Endpoint> {
        let port = self.lock().get(name).and_then(|up| up.running.port());
        port.map(|port| Endpoint { address: None, port: Some(port) }).into_iter().collect()
    }

    /// Whether it is ready, and none of these processes is its main one.
    #[must_use]
    pub fn is_back(&self, name: &str, hit: &[Identity]) -> bool {
        let ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner).contains(name);
        ready && self.main(name).is_some_and(|main| !hit.contains(main.identity()))
    }

    /// Remembers whether it is ready.
    pub(super) fn ready(&self, name: &str, ready: bool) {
        let mut names = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if ready {
            names.insert(name.to_owned());
        } else {
            names.remove(name);
        }
    }

    /// Starts all, each once what it needs is ready.
    ///
    /// # Errors
    /// The first that cannot be started; what was started until then is in the log, and is stopped by it.
    pub(super) async fn start(
        &self,
        run: RunId,
        asked: Vec<Service>,
        directory: PathBuf,
        folder: PathBuf,
        log: SharedLog,
        told: mpsc::Sender<Told>,
    ) -> Result<(), String> {
        for service in asked {
            let spec = spec(run, &service, &directory, &folder);
            let entry = Entry {
                fault: format!("service {}", service.name),
                host: String::new(),
                deadline: None,
                owed: AnyOwed::Service(spec.record()),
            };
            let written = entry.clone();
            let number = with_log(&log, move |log| {
                log.claim(&written.claims())?;
                log.append(written)
            })
            .await?
            .map_err(|why| why.to_string())?;
            let running = service::start(spec, told.clone()).await.map_err(|why| why.to_string())?;
            self.lock().insert(service.name.clone(), Up { running, number });
        }
        Ok(())
    }

    /// Stops all that the log says was started, or half started: the youngest first, so that those that others need
    /// go last. What could not be stopped.
    pub(super) async fn stop(&self, log: SharedLog) -> Vec<Unpaid> {
        let started = with_log(&log, |log| {
            let services = log.owed().filter(|(_, entry)| matches!(entry.owed, AnyOwed::Service(_)));
            services.map(|(number, entry)| (number, entry.clone())).collect::<Vec<_>>()
        });
        let mut unpaid = Vec::new();
        for (number, entry) in started.await.unwrap_or_default() {
            if let Some(running) = self.take(number) {
                // Its own stop tells about it; the record's proves it.
                let _ = running.stop().await;
            }
            let settled = settle(&entry, || {}).await;
            let written = match settled {
                Ok(()) => with_log(&log, move |log| log.undone(number).map_err(|why| why.to_string()))
                    .await
                    .and_then(|result| result),
                Err(why) => Err(why),
            };
            unpaid.extend(written.err().map(|why| Unpaid::of(&entry, why)));
        }
        unpaid
    }

    fn take(&self, number: Number) -> Option<Running> {
        let mut running = self.lock();
        let name = running.iter().find(|(_, up)| up.number == number).map(|(name, _)| name.clone())?;
        running.remove(&name).map(|up| up.running)
    }
}

fn spec(run: RunId, service: &Service, directory: &Path, folder: &Path) -> Spec {
    Spec {
        run,
        name: service.name.clone(),
        setup: service.setup.clone(),
        command: service.run.clone(),
        env: service.env.clone(),
        user: service.user.clone(),
        directory: directory.to_owned(),
        dir: service.dir.clone(),
        port: service.port,
        log: folder.join(format!("{}.log", service.name)),
        restart_after: service.restart_after,
        ready: service.ready.as_ref().map(|ready| match ready {
            Ready::Tcp(address) => service::Ready::Tcp(address.clone()),
            Ready::Http(url) => service::Ready::Http(url.clone()),
            Ready::Exec(command) => service::Ready::Exec(command.clone()),
        }),
        ready_within: service.ready_within,
    }
}
