//! The API of Docker, which podman speaks too: HTTP over a unix socket
//! (Docker Engine API 1.24 and later: `/containers/json`, `/containers/ID/json`, and a POST for each verb).

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::handshake;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

use super::{Container, Runtime, State, Trouble};

/// The list of thousands of containers is some megabytes.
const MOST: usize = 32 << 20;
/// A question is answered in milliseconds; a daemon on a busy host in seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who speaks the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Brand {
    /// Docker.
    Docker,
    /// podman, by `podman system service`.
    Podman,
}

impl fmt::Display for Brand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Docker => "Docker",
            Self::Podman => "podman",
        })
    }
}

impl Brand {
    /// The program with which a person commands it.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }
}

/// A daemon, by its socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daemon {
    /// Whose.
    pub brand: Brand,
    /// Where it listens.
    pub socket: PathBuf,
}

/// How a container stands, looked at closely.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Whether it runs; a paused one does too.
    pub running: bool,
    /// Whether it is paused.
    pub paused: bool,
    /// Its main process; 0 when it does not run.
    pub pid: i32,
    /// How it ended last.
    pub exit_code: i64,
    /// When it was last started, as the daemon writes it: another start has another time.
    pub started: String,
    /// What the daemon does when it ends (`no`, `always`, `on-failure`, `unless-stopped`).
    pub policy: String,
    /// Whether it is removed when it ends.
    pub auto_remove: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
    #[serde(default)]
    names: Option<Vec<String>>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    state: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    state: InspectedState,
    #[serde(default)]
    host_config: InspectedHost,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct InspectedState {
    running: bool,
    paused: bool,
    pid: i32,
    exit_code: i64,
    started_at: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct InspectedHost {
    auto_remove: bool,
    restart_policy: Option<Policy>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Policy {
    name: String,
}

impl Daemon {
    /// All its containers, also those that do not run.
    ///
    /// # Errors
    /// When it does not answer, or we may not ask.
    pub async fn containers(&self) -> Result<Vec<Container>, Trouble> {
        let (status, body) = self.ask(Method::GET, "/containers/json?all=1", PATIENCE).await?;
        let listed: Vec<Listed> = self.read(status, &body)?;
        Ok(listed
            .into_iter()
            .map(|one| Container {
                runtime: Runtime::Daemon(self.clone()),
                name: one
                    .names
                    .iter()
                    .flatten()
                    // A link of another container is a name too: `/other/alias`.
                    .map(|name| name.trim_start_matches('/'))
                    .find(|name| !name.contains('/'))
                    .map_or_else(|| super::short(&one.id).to_owned(), str::to_owned),
                id: one.id,
                labels: one.labels.unwrap_or_default(),
                state: match one.state.as_str() {
                    "running" => State::Running,
                    "paused" => State::Paused,
                    other => State::Down(other.to_owned()),
                },
                pid: 0,
            })
            .collect())
    }

    /// How one of its containers stands; `None` when there is none of that id.
    ///
    /// # Errors
    /// When it does not answer, or we may not ask.
    pub async fn inspect(&self, id: &str) -> Result<Option<Standing>, Trouble> {
        let (status, body) = self.ask(Method::GET, &format!("/containers/{id}/json"), PATIENCE).await?;
        if status == 404 {
            return Ok(None);
        }
        let Inspected { state, host_config } = self.read(status, &body)?;
        let policy = host_config.restart_policy.unwrap_or_default().name;
        Ok(Some(Standing {
            running: state.running || state.paused, // podman counts a paused one as not running.
            paused: state.paused,
            pid: state.pid,
            exit_code: state.exit_code,
            started: state.started_at,
            policy: if policy.is_empty() { "no".to_owned() } else { policy },
            auto_remove: host_config.auto_remove,
        }))
    }

    /// Has something done to a container: `pause`, `stop?t=10` and so on; `within` is how long that may take.
    ///
    /// # Errors
    /// What the daemon said.
    pub async fn act(&self, id: &str, verb: &str, within: Duration) -> Result<(), Trouble> {
        let path = format!("/containers/{id}/{verb}");
        match self.ask(Method::POST, &path, within + PATIENCE).await? {
            // 304: it is so already.
            (200..=299 | 304, _) => Ok(()),
            (status, body) => Err(self.refused(status, &body)),
        }
    }

    /// Its version.
    ///
    /// # Errors
    /// When it does not answer, or we may not ask.
    pub async fn version(&self) -> Result<String, Trouble> {
        #[derive(Deserialize)]
        struct Version {
            #[serde(rename = "Version")]
            version: String,
        }
        let (status, body) = self.ask(Method::GET, "/version", PATIENCE).await?;
        self.read(status, &body).map(|Version { version }| version)
    }

    fn read<T: for<'de> Deserialize<'de>>(&self, status: u16, body: &[u8]) -> Result<T, Trouble> {
        if status != 200 {
            return Err(self.refused(status, body));
        }
        serde_json::from_slice(body)
            .map_err(|why| self.trouble(&format!("its answer is not what Docker's API says: {why}")))
    }

    fn refused(&self, status: u16, body: &[u8]) -> Trouble {
        #[derive(Deserialize)]
        struct Said {
            message: String,
        }
        let said = serde_json::from_slice(body).map_or_else(
            |_| String::from_utf8_lossy(body).chars().take(200).collect(),
            |Said { message }| message,
        );
        self.trouble(&format!("it answers {status}: {}", said.trim()))
    }

    fn trouble(&self, why: &str) -> Trouble {
        Trouble::new(
            format!("{} at {}: {why}", self.brand, self.socket.display()),
            format!("see what `{} ps` says", self.brand.program()),
        )
    }

    fn unreachable(&self, why: &io::Error) -> Trouble {
        let remedy = match why.kind() {
            io::ErrorKind::PermissionDenied => {
                "run as root, or as a member of the group that the socket belongs to".to_owned()
            }
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                format!("start {}, or say where its socket is by {}", self.brand, self.variable())
            }
            _ => return self.trouble(&why.to_string()),
        };
        Trouble::new(format!("{} at {}: {why}", self.brand, self.socket.display()), remedy)
    }

    fn variable(&self) -> &'static str {
        match self.brand {
            Brand::Docker => "DOCKER_HOST=unix:///PATH",
            Brand::Podman => "CONTAINER_HOST=unix:///PATH",
        }
    }

    /// The process that listens on its socket, where the kernel tells (SO_PEERCRED, unix(7)).
    pub(super) async fn process(&self) -> Option<i32> {
        UnixStream::connect(&self.socket).await.ok()?.peer_cred().ok()?.pid()
    }

    async fn ask(&self, method: Method, path: &str, within: Duration) -> Result<(u16, Vec<u8>), Trouble> {
        let answered = tokio::time::timeout(within, self.ask_for_ever(method, path)).await;
        answered.unwrap_or_else(|_| {
            Err(self.trouble(&format!("no answer within {}", crate::base::unit::say(within))))
        })
    }

    async fn ask_for_ever(&self, method: Method, path: &str) -> Result<(u16, Vec<u8>), Trouble> {
        let failed = |why: &dyn fmt::Display| self.trouble(&why.to_string());
        let stream = UnixStream::connect(&self.socket).await.map_err(|why| self.unreachable(&why))?;
        let (mut send, connection) = handshake(TokioIo::new(stream)).await.map_err(|why| failed(&why))?;
        let _driver = EndsWith(tokio::spawn(async move {
            let _ = connection.await; // How it ended is told to the request on it.
        }));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-length", "0")
            .body(Empty::<Bytes>::new())
            .map_err(|why| failed(&why))?;
        let answer = send.send_request(request).await.map_err(|why| failed(&why))?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), MOST).collect().await.map_err(|why| failed(&why))?;
        Ok((status, body.to_bytes().to_vec()))
    }
}

/// A task that ends when nobody waits for what it does.
struct EndsWith(tokio::task::JoinHandle<()>);

impl Drop for EndsWith {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The sockets at which a daemon may listen here: what the environment says, else the usual places; for root also
/// those of daemons that users run.
///
/// The second list is what the environment says and we cannot use.
pub(super) fn daemons(variable: impl Fn(&str) -> Option<String>) -> (Vec<Daemon>, Vec<Trouble>) {
    let (mut found, mut troubles) = (Vec::<Daemon>::new(), Vec::new());
    for (brand, name, usual) in [
        (Brand::Docker, "DOCKER_HOST", ["/var/run/docker.sock", "docker.sock"]),
        (Brand::Podman, "CONTAINER_HOST", ["/run/podman/podman.sock", "podman/podman.sock"]),
    ] {
        let mut add = |socket: &Path| {
            // /var/run is mostly a link to /run.
            let socket = socket.canonicalize().unwrap_or_else(|_| socket.to_owned());
            if !found.iter().any(|daemon: &Daemon| daemon.socket == socket) {
                found.push(Daemon { brand, socket });
            }
        };
        if let Some(value) = variable(name).filter(|value| !value.is_empty()) {
            match value.strip_prefix("unix://") {
                Some(path) => add(Path::new(path)),
                None => troubles.push(Trouble::new(
                    format!("{name} is {value}, whose containers may be on another machine"),
                    format!("run brownout there, or set {name}=unix:///PATH"),
                )),
            }
            continue;
        }
        let own = variable("XDG_RUNTIME_DIR").map(PathBuf::from);
        let users = std::fs::read_dir("/run/user").into_iter().flatten().flatten();
        let users = own.into_iter().chain(users.map(|entry| entry.path()));
        std::iter::once(PathBuf::from(usual[0]))
            .chain(users.map(|folder| folder.join(usual[1])))
            .filter(|socket| socket.symlink_metadata().is_ok())
            .for_each(|socket| add(&socket));
    }
    (found, troubles)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_says_where_a_daemon_listens_if_that_is_a_socket_here() {
        let set = |text: &'static str| move |name: &str| (name == "DOCKER_HOST").then(|| text.to_owned());
        let (found, troubles) = daemons(set("unix:///nowhere/docker.sock"));
        let docker = Daemon { brand: Brand::Docker, socket: "/nowhere/docker.sock".into() };
        assert!(found.contains(&docker) && troubles.is_empty(), "{found:?} {troubles:?}");
        let (found, troubles) = daemons(set("tcp://10.0.0.7:2375"));
        assert!(found.iter().all(|daemon| daemon.brand == Brand::Podman));
        assert_eq!(
            troubles[0].why,
            "DOCKER_HOST is tcp://10.0.0.7:2375, whose containers may be on another machine"
        );
    }
}
