//! Users, read from /etc/passwd and /etc/group (passwd(5), group(5)).
//!
//! The binary is static, so the name service switch is not asked: users that exist only in a directory
//! service are named by their number, and then have the group of the same number.

use std::fs;
use std::io;
use std::path::PathBuf;

/// A user whom a process can become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// The number.
    pub uid: u32,
    /// The number of its own group.
    pub gid: u32,
    /// The numbers of all groups it is in, its own first.
    pub groups: Vec<u32>,
    /// The home directory.
    pub home: PathBuf,
}

impl User {
    /// The user of a name, or of a number; `None` when there is none.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn find(wanted: &str) -> io::Result<Option<Self>> {
        let group = fs::read_to_string("/etc/group").unwrap_or_default();
        Ok(among(&fs::read_to_string("/etc/passwd")?, &group, wanted))
    }
}

/// Who is asking, for the audit line and for notes: the name behind sudo, else our own.
#[must_use]
pub fn caller() -> String {
    sudo_user().unwrap_or_else(ourselves)
}

/// Who called sudo, if it was used.
#[must_use]
pub fn sudo_user() -> Option<String> {
    std::env::var("SUDO_USER").ok().filter(|name| !name.is_empty())
}

/// The name of the user we are; its number when it has none.
#[must_use]
pub fn ourselves() -> String {
    let uid = nix::unistd::getuid().to_string();
    User::find(&uid).ok().flatten().map_or(uid, |user| user.name)
}

fn among(passwd: &str, group: &str, wanted: &str) -> Option<User> {
    let number: Option<u32> = wanted.parse().ok();
    let known = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields.as_slice() else { return None };
        let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
        (*name == wanted || number == Some(uid)).then(|| User {
            name: (*name).to_owned(),
            uid,
            gid,
            groups: vec![gid],
            home: PathBuf::from(home),
        })
    });
    let unknown =
        |uid| User { name: wanted.to_owned(), uid, gid: uid, groups: vec![uid], home: PathBuf::from("/") };
    let mut user = known.or_else(|| number.map(unknown))?;
    for line in group.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let [_, _, gid, members, ..] = fields.as_slice() else { continue };
        let Ok(gid) = gid.parse() else { continue };
        if members.split(',').any(|member| member == user.name) && !user.groups.contains(&gid) {
            user.groups.push(gid);
        }
    }
    Some(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
        broken line\nodd:x:not:a:number:/:x\n\
        postgres:x:104:106:PostgreSQL,,,:/var/lib/postgresql:/bin/bash\n";
    const GROUP: &str =
        "root:x:0:\nssl-cert:x:105:postgres\npostgres:x:106:postgres\ngit:x:107:me,postgres\n";

    #[test]
    fn a_user_is_found_by_name_and_by_number_with_all_its_groups() {
        let postgres = among(PASSWD, GROUP, "postgres").unwrap();
        assert_eq!((postgres.uid, postgres.gid), (104, 106));
        assert_eq!(postgres.groups, [106, 105, 107]);
        assert_eq!(postgres.home, PathBuf::from("/var/lib/postgresql"));
        assert_eq!(among(PASSWD, GROUP, "104"), Some(postgres));
        assert_eq!(among(PASSWD, GROUP, "nobody-here"), None);
        assert_eq!(among(PASSWD, GROUP, "-1"), None);
        let unknown = among(PASSWD, GROUP, "70001").unwrap();
        assert_eq!((unknown.uid, unknown.gid, unknown.groups), (70001, 70001, vec![70001]));
        assert_eq!(among(PASSWD, GROUP, "odd"), None);
    }
}
