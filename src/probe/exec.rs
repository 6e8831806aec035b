//! `exec`: your own command looks.

use std::path::PathBuf;

use serde_json::{Value as Json, json};

use super::{Miss, Probe, Prober, Setting, Trace, beginning};
use crate::file::{Fields, Mistakes, Node, Read};
use crate::hands::command::{Ended, output};
use crate::host::names::Names;

crate::kind! {
    /// Runs your own command; exit code 0 is good.
    ///
    /// It is run without a shell, in the experiment file's directory, in a process group of its own: a look
    /// that is over takes all of the group with it. A command that cannot be started counts as missed, not
    /// as bad: that is our side's trouble, not the system's. With `netns` or `container` it has
    /// that network, and all else as here: a program of a container would run with our rights. `docker exec` runs one with its
    /// own.
    pub struct Exec("exec") {
        /// The command and its arguments.
        run: Vec<String> = required,
        /// What must be seen: `code`, and `stdout`, which must be contained in the first 64 KiB written.
        expect: Expect = "{ code = 0 }",
    }
}

/// What a command must do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expect {
    /// Its exit code.
    pub code: u16,
    /// What it must write.
    pub stdout: Option<String>,
}

impl Read for Expect {
    const NAME: &'static str = "table";
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let mut fields = Fields::open(node, "`expect`", mistakes)?;
        let code = match fields.node("code") {
            Some((_, node)) => u16::read(node, mistakes).and_then(|code| {
                let possible = code <= 255;
                if !possible {
                    mistakes.error(node.place, format!("{code} is not an exit code"), "use 0 to 255");
                }
                possible.then_some(code)
            }),
            None => Some(0),
        };
        let stdout = fields.optional("stdout", mistakes);
        fields.close(mistakes);
        Some(Self { code: code?, stdout })
    }
    fn schema() -> Json {
        json!({
            "type": "object",
            "properties": {"code": {"type": "integer", "minimum": 0, "maximum": 255}, "stdout": String::schema()},
            "additionalProperties": false,
        })
    }
}

/// Runs the command, again and again.
pub struct ExecProber {
    exec: Exec,
    directory: PathBuf,
    names: Names,
}

impl Probe for Exec {
    type Prober = ExecProber;
    const EXAMPLE: &'static str = r#"[probe.replica.exec]
run     = ["pg_isready", "-h", "127.0.0.1"]
expect  = { stdout = "accepting" }
rate    = "2/s"
timeout = "3s"
"#;

    fn check(&self) -> Result<(), (String, String)> {
        match self.run.first() {
            Some(program) if !program.is_empty() => Ok(()),
            _ => Err((
                "`run` names no program".to_owned(),
                "write run = [\"program\", \"argument\"]".to_owned(),
            )),
        }
    }

    fn prober(&self, setting: &Setting) -> Result<ExecProber, String> {
        Ok(ExecProber { exec: self.clone(), directory: setting.directory.clone(), names: setting.names() })
    }

    fn looks_at(&self) -> String {
        self.run.join(" ")
    }
}

impl Prober for ExecProber {
    async fn look(&self, trace: &mut Trace) -> Result<(), Miss> {
        let network = self.names.door().await.map_err(|why| Miss::ours(why.to_string()))?;
        match output(&self.exec.run, &self.directory, network).await {
            Err(why) => Err(Miss::ours(why)),
            Ok(ended) => {
                trace.answered(&ended.stdout);
                self.wrong(&ended).map_or(Ok(()), |why| Err(Miss::new(why)))
            }
        }
    }
}

impl ExecProber {
    fn wrong(&self, ended: &Ended) -> Option<String> {
        let Expect { code, stdout } = &self.exec.expect;
        if ended.status.code() != Some(i32::from(*code)) {
            let how = match ended.status.code() {
                Some(other) => format!("exit code {other}, expected {code}"),
                // Only a signal ends a command without a code (wait(2)).
                None => format!("ended by {}", ended.status),
            };
            let said = if ended.stderr.is_empty() { &ended.stdout } else { &ended.stderr };
            let said = beginning(said);
            return Some(if said.is_empty() { how } else { format!("{how}; it said `{said}`") });
        }
        let wanted = stdout.as_ref()?;
        let found = String::from_utf8_lossy(&ended.stdout).contains(wanted);
        (!found).then(|| {
            format!("its output does not contain `{wanted}`; it begins `{}`", beginning(&ended.stdout))
        })
    }
}
