//! nf_tables: a rule table that dies with the socket that made it, on a lease besides.
//!
//! The table has NFT_TABLE_F_OWNER (Linux 5.12): nobody else can change or delete it, and the kernel
//! deletes it when its socket closes, whatever closes it. Its rules are gated by a set element with a
//! timeout: the lease, which ends the harm also when we are alive but hang. Every message and attribute
//! is from include/uapi/linux/netfilter/nf_tables.h and nf_tables_compat.h.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::hooks;
use super::owner::{MOST_ACKS, Owner, transaction};
use crate::host::netlink::{Attributes, Messages, PATIENCE, messages};
use crate::host::socket::{Namespace, Protocol};
use crate::host::target::Endpoint;

/// How long the rules stand without renewal.
pub const LEASE: Duration = Duration::from_secs(1);

/// Why a table cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// Not ours to do.
    #[error(
        "nf_tables needs CAP_NET_ADMIN in this network namespace: run as root, or in a namespace of your own"
    )]
    Rights,
    /// The kernel lacks it.
    #[error("this kernel cannot {0}")]
    Lacks(&'static str),
    /// Anything else.
    #[error("nf_tables, {0}: {1}")]
    Refused(&'static str, io::Error),
}

impl RulesError {
    pub(super) fn of(doing: &'static str, lacks: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |why| match why.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::Rights,
            Some(libc::ENOENT | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT) => {
                Self::Lacks(lacks)
            }
            _ => Self::Refused(doing, why),
        }
    }
}

/// Where in the kernel packets are met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    /// Packets for this host, those over loopback included.
    Input,
    /// Packets that pass through.
    Forward,
    /// Packets of this host.
    Output,
}

impl Hook {
    fn number(self) -> u32 {
        (match self {
            Self::Input => libc::NF_INET_LOCAL_IN,
            Self::Forward => libc::NF_INET_FORWARD,
            Self::Output => libc::NF_INET_LOCAL_OUT,
        }) as u32
    }

    fn chain(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
        }
    }

    /// Addresses are matched as the programs on this host know them: on the way in after the source was
    /// translated back (NF_IP_PRI_NAT_SRC, 100), on the way out before the destination is translated
    /// (NF_IP_PRI_NAT_DST, -100, and our own before it), which is after connections are tracked
    /// (NF_IP_PRI_CONNTRACK, -200).
    fn priorities(self) -> RangeInclusive<i32> {
        match self {
            Self::Input | Self::Forward => 101..=224,
            Self::Output => -199..=-102,
        }
    }

    /// Behind so many of ours, as far as there is room.
    fn base(self, place: i32) -> Base {
        let room = self.priorities();
        Base { kind: "filter", hook: self.number(), priority: (room.start() + place).min(*room.end()) }
    }
}

/// The traffic one rule takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traffic {
    /// Where it is met.
    pub hook: Hook,
    /// By what it is carried.
    pub protocol: Protocol,
    /// Only over loopback, which is how two ends on one host speak whatever their addresses; or only not
    /// over it; or either.
    pub loopback: Option<bool>,
    /// Whence.
    pub from: Endpoint,
    /// Whither.
    pub to: Endpoint,
    /// Only what asks for a TCP connection.
    pub opens: bool,
}

/// How a rule hands packets to a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QueueBy {
    /// The expression `queue` (CONFIG_NFT_QUEUE).
    Expression,
    /// The target NFQUEUE of iptables (CONFIG_NFT_COMPAT, CONFIG_NETFILTER_XT_TARGET_NFQUEUE).
    Target,
}

/// How the kernel brings a connection to us that was made to somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TurnBy {
    /// Connections to this host: a socket of ours stands in for the one they go to, and has their addresses
    /// (`tproxy`, CONFIG_NFT_TPROXY; it must be IP_TRANSPARENT, ip(7)). No connection is tracked, and when
    /// nobody listens any more they reach the real server. TCP only.
    Tproxy,
    /// Connections and datagrams of this host to other hosts: their destination is rewritten (`redirect`,
    /// CONFIG_NFT_REDIR), and the kernel tracks connections meanwhile. When the last rule of a namespace
    /// that translates goes, so does the tracking, and what was redirected hangs: see [`Table::expire`].
    Redirect,
}

/// Traffic that is brought to a port of ours. Of TCP only the first packet is turned, so that connections
/// made before are not touched; and nothing that bears the mark [`OURS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// How.
    pub by: TurnBy,
    /// By what it is carried.
    pub protocol: Protocol,
    /// Whence.
    pub from: Endpoint,
    /// Whither.
    pub to: Endpoint,
    /// Where we wait for it: a loopback address. Only packets of its IP version are turned.
    pub at: SocketAddr,
}

/// The mark (SO_MARK, socket(7)) of sockets by which we go on to where the turned traffic was going.
pub const OURS: u32 = 0x6272_776e;

/// A table of ours, with its lease. Dropping it takes its rules away at once, and its hooks when none of ours holds
/// packets in its network namespace any more.
#[derive(Debug)]
pub struct Table {
    owner: Arc<Owner>,
    name: String,
    cleared: AtomicBool,
}

impl Table {
    /// Makes one in a transaction. One that is refused is none of ours: its name may be another's.
    fn make(owner: Arc<Owner>, name: &str, batch: Batch, lacks: &'static str) -> Result<Self, RulesError> {
        batch.commit(&owner).map_err(RulesError::of("making the table", lacks))?;
        Ok(Self { owner, name: name.to_owned(), cleared: AtomicBool::new(false) })
    }

    /// Makes the table and all its rules in one transaction: this traffic goes to that queue, and passes
    /// unhindered when nobody serves it (`bypass`). What bears the `exempt` mark is not looked at.
    ///
    /// # Errors
    /// When we may not, or the kernel cannot.
    pub fn queueing(
        name: &str,
        (queue, by): (u16, QueueBy),
        traffic: &[Traffic],
        exempt: Option<u32>,
    ) -> Result<Self, RulesError> {
        let owner = Owner::here()?;
        let end = |_| to_queue(queue, by, OrElse::Pass);
        let batch = filtering(&owner, name, traffic, exempt, end);
        Self::make(owner, name, batch, OWNED)
    }

    /// Makes the table and all its rules in one transaction: this traffic is dropped, and no sender on this host hears
    /// of it. A packet that a rule drops on its way out is an error to its sender (EPERM, nf_hook_slow in
    /// net/netfilter/core.c); one that goes to a queue is not, whatever becomes of it (nf_queue returns 0). So `silent`
    /// is a queue that drops: one that nobody serves, or a [`super::queue::Abyss`], which nobody else can take.
    ///
    /// # Errors
    /// When we may not, or the kernel cannot.
    pub fn cutting(name: &str, silent: (u16, QueueBy), traffic: &[Traffic]) -> Result<Self, RulesError> {
        let owner = Owner::here()?;
        let end = |hook| match hook {
            Hook::Output => to_queue(silent.0, silent.1, OrElse::Drop),
            Hook::Input | Hook::Forward => verdict(libc::NF_DROP),
        };
        let batch = filtering(&owner, name, traffic, None, end);
        Self::make(owner, name, batch, OWNED)
    }

    /// Makes the table and all its rules in one transaction: this traffic is brought to a port of ours.
    ///
    /// # Errors
    /// When we may not, or the kernel cannot.
    pub fn turning(name: &str, turns: &[Turn]) -> Result<Self, RulesError> {
        let mut batch = Batch::begin();
        batch.table(name);
        batch.set(name);
        let mut ways: Vec<TurnBy> = turns.iter().map(|turn| turn.by).collect();
        ways.sort_unstable();
        ways.dedup();
        for by in ways {
            batch.chain(name, by.chain(), Some(by.base()));
            batch.rule(name, by.chain(), &unleased());
        }
        for turn in turns {
            batch.rule(name, turn.by.chain(), &turned(turn));
        }
        batch.lease(name, libc::NFT_MSG_NEWSETELEM);
        let lacks = "keep a rule table that dies with its owner and turns connections (Linux 5.12, nf_tables, and \
             its expressions fib, tproxy and redir are needed)";
        Self::make(Owner::here()?, name, batch, lacks)
    }

    /// The number of the descriptor with whose end the table ends.
    #[must_use]
    pub fn descriptor(&self) -> RawFd {
        self.owner.descriptor()
    }

    /// What owns it.
    pub(super) fn owner(&self) -> &Arc<Owner> {
        &self.owner
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Ends the lease now: the rules stand and do nothing any more. What was redirected before goes on.
    ///
    /// # Errors
    /// When the kernel refuses; the lease then runs out by itself.
    pub fn expire(&self) -> io::Result<()> {
        let mut batch = Batch::begin();
        batch.lease(&self.name, libc::NFT_MSG_DELSETELEM);
        match batch.commit(&self.owner) {
            Err(why) if why.raw_os_error() == Some(libc::ENOENT) => Ok(()), // It had run out.
            ended => ended,
        }
    }

    /// Takes all rules away, and the lease with them, and leaves the hooks: what is queued must be given back before
    /// those go (see [`super::hooks`]).
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn clear(&self) -> io::Result<()> {
        // What is refused is done alone, and nothing is there to be taken away twice.
        if self.cleared.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut batch = Batch::begin();
        batch.push(libc::NFT_MSG_DELRULE, 0, &Attributes::new().text(NFTA_RULE_TABLE, &self.name));
        batch.push(libc::NFT_MSG_DELSET, 0, &the_set(&self.name));
        let cleared = batch.commit(&self.owner);
        let was_clear = cleared.as_ref().is_err_and(|why| why.raw_os_error() == Some(libc::ENOENT));
        self.cleared.store(was_clear || cleared.is_ok(), Ordering::Release);
        if was_clear { Ok(()) } else { cleared }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        let bare = Bare { owner: self.owner.clone(), names: vec![self.name.clone()] };
        // If its rules will not go, the hooks go with them; and what stays of it in spite of that does nothing when its
        // lease has run out.
        if self.clear().is_ok() {
            hooks::end(self.owner.namespace(), bare);
        }
    }
}

/// Tables of one owner that have no rules any more. Dropping it takes their hooks away.
#[derive(Debug)]
pub(super) struct Bare {
    owner: Arc<Owner>,
    names: Vec<String>,
}

impl Bare {
    /// How many they are.
    pub(super) fn count(&self) -> usize {
        self.names.len()
    }

    /// These go together with others of the same owner.
    pub(super) fn join(&mut self, mut others: Self) {
        self.names.append(&mut others.names);
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let delete = |names: &[String]| {
            let mut batch = Batch::begin();
            for name in names {
                batch.push(libc::NFT_MSG_DELTABLE, 0, &Attributes::new().text(NFTA_TABLE_NAME, name));
            }
            batch.commit(&self.owner)
        };
        for names in self.names.chunks(MOST_ACKS) {
            if delete(names).is_err() && names.len() > 1 {
                for name in names {
                    // It ends with its owner otherwise, and does nothing until then.
                    let _ = delete(std::slice::from_ref(name));
                }
            }
        }
    }
}

/// Lets the rules of tables of one owner stand for another [`LEASE`] from now: of those that are due when no other
/// transaction of the owner is under way. One that the kernel refuses runs out; the others do not.
pub(super) fn renew(owner: &Owner, due: impl FnOnce() -> Vec<String>) {
    let socket = owner.socket();
    for tables in due().chunks(MOST_ACKS / RENEWAL.len()) {
        let all = transaction(&socket, [&renewal(tables).0]);
        if all.is_err() && tables.len() > 1 {
            for table in tables {
                let _ = transaction(&socket, [&renewal(std::slice::from_ref(table)).0]);
            }
        }
    }
}

/// What renews a lease. The element is deleted and added in one transaction, so there is no gap; adding it again alone does
/// not move its end on Linux 6.1. It is added before that too, since only what is there can be deleted: it may have run out.
const RENEWAL: [i32; 3] = [libc::NFT_MSG_NEWSETELEM, libc::NFT_MSG_DELSETELEM, libc::NFT_MSG_NEWSETELEM];

/// The messages that renew leases.
fn renewal(tables: &[String]) -> Batch {
    let mut batch = Batch::begin();
    for table in tables {
        for what in RENEWAL {
            batch.lease(table, what);
        }
    }
    batch
}

/// Names the set that holds the lease of a table.
fn the_set(table: &str) -> Attributes {
    Attributes::new().text(NFTA_SET_TABLE, table).text(NFTA_SET_NAME, SET)
}

/// The messages that make a table of rules for some traffic, each with what its end is at a hook.
fn filtering(
    owner: &Owner,
    name: &str,
    traffic: &[Traffic],
    exempt: Option<u32>,
    end: impl Fn(Hook) -> Attributes,
) -> Batch {
    let place = hooks::place(owner.namespace());
    let mut batch = Batch::begin();
    batch.table(name);
    batch.set(name);
    let mut hooks: Vec<Hook> = traffic.iter().map(|traffic| traffic.hook).collect();
    hooks.sort_unstable();
    hooks.dedup();
    for hook in hooks {
        batch.chain(name, hook.chain(), Some(hook.base(place)));
        batch.rule(name, hook.chain(), &unleased());
        if let Some(mark) = exempt {
            let marked = [meta(libc::NFT_META_MARK), equal(&mark.to_ne_bytes()), verdict(libc::NF_ACCEPT)];
            batch.rule(name, hook.chain(), &marked);
        }
    }
    for traffic in traffic {
        let mut rule = matching(traffic);
        rule.push(end(traffic.hook));
        batch.rule(name, traffic.hook.chain(), &rule);
    }
    batch.lease(name, libc::NFT_MSG_NEWSETELEM);
    batch
}

/// What a kernel lacks that makes no such table.
const OWNED: &str = "keep a rule table that dies with its owner (Linux 5.12 and nf_tables are needed)";

/// What [`probe`] found, and where.
static FOUND: Mutex<Vec<(Namespace, QueueBy)>> = Mutex::new(Vec::new());

/// Finds out how this kernel hands packets to a queue, by a table that is made and deleted within one
/// transaction and is never seen. What was found in a namespace stays so for as long as we live: asking anew for each of
/// many faults would take tens of milliseconds each.
///
/// # Errors
/// When it cannot, or we may not.
pub fn probe() -> Result<QueueBy, RulesError> {
    let lacks = "hand packets to a queue from a rule table (CONFIG_NFT_QUEUE, or CONFIG_NFT_COMPAT with \
                 CONFIG_NETFILTER_XT_TARGET_NFQUEUE, is needed)";
    let here = Namespace::ours().map_err(|why| RulesError::Refused("finding our network namespace", why))?;
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, by)) = found.iter().find(|(there, _)| *there == here) {
        return Ok(*by);
    }
    let mut last = RulesError::Lacks(lacks);
    for by in [QueueBy::Expression, QueueBy::Target] {
        match try_rule(&[to_queue(0, by, OrElse::Pass)], lacks) {
            Ok(()) => {
                found.push((here, by));
                return Ok(by);
            }
            Err(RulesError::Rights) => return Err(RulesError::Rights),
            Err(why) => last = why,
        }
    }
    Err(last)
}

/// Finds out whether this kernel can turn traffic so, by a table that is never seen.
///
/// # Errors
/// When it cannot, or we may not.
pub fn probe_turn(by: TurnBy) -> Result<(), RulesError> {
    let lacks = match by {
        TurnBy::Tproxy => {
            "let a socket stand in for another (CONFIG_NFT_TPROXY and CONFIG_NFT_FIB_INET are needed)"
        }
        TurnBy::Redirect => {
            "redirect from a rule table (CONFIG_NFT_REDIR, CONFIG_NFT_NAT and CONFIG_NFT_FIB_INET are needed)"
        }
    };
    let anywhere = Endpoint { address: None, port: None };
    let at = SocketAddr::from(([127, 0, 0, 1], 1));
    try_rule(&turned(&Turn { by, protocol: Protocol::Tcp, from: anywhere, to: anywhere, at }), lacks)
}

/// Makes a table with such a rule and deletes it again, within one transaction.
fn try_rule(rule: &[Attributes], lacks: &'static str) -> Result<(), RulesError> {
    const NAME: &str = "brownout_probe";
    let mut batch = Batch::begin();
    batch.table(NAME);
    batch.chain(NAME, "probe", None);
    batch.rule(NAME, "probe", rule);
    batch.push(libc::NFT_MSG_DELTABLE, 0, &Attributes::new().text(NFTA_TABLE_NAME, NAME));
    batch.commit(&*Owner::here()?).map_err(RulesError::of("looking what it can", lacks))
}

/// Whether a table of that name has its lease, in the network namespace of this thread: whether its rules
/// do anything.
///
/// # Errors
/// When we may not look.
pub fn leased(name: &str) -> Result<bool, RulesError> {
    exists(libc::NFT_MSG_GETSETELEM, &the_lease(name, &Attributes::new()))
}

/// Whether a table of that name has its rules, in the network namespace of this thread: they come and go with the set
/// that holds its lease.
///
/// # Errors
/// When we may not look.
pub fn stands(name: &str) -> Result<bool, RulesError> {
    exists(libc::NFT_MSG_GETSET, &the_set(name))
}

fn exists(what: i32, attributes: &Attributes) -> Result<bool, RulesError> {
    let mut asked = Messages::new();
    let (kind, header) = message(what);
    asked.push(kind, 0, &header, attributes);
    let owner = Owner::here()?;
    let look = || -> io::Result<bool> {
        let socket = owner.socket();
        socket.send(asked.bytes())?;
        let mut buffer = vec![0; 8 << 10];
        match messages(socket.receive(&mut buffer, PATIENCE)?).next().and_then(|answer| answer.error()) {
            None | Some(0) => Ok(true),
            Some(libc::ENOENT) => Ok(false),
            Some(why) => Err(io::Error::from_raw_os_error(why)),
        }
    };
    look().map_err(RulesError::of("looking for a table", "list tables"))
}

/// A message's kind and its struct nfgenmsg, for the family inet: both IP versions.
fn message(what: i32) -> (i32, [u8; 4]) {
    (libc::NFNL_SUBSYS_NFTABLES << 8 | what, [libc::NFPROTO_INET as u8, libc::NFNETLINK_V0 as u8, 0, 0])
}

/// Where a chain hangs.
#[derive(Debug, Clone, Copy)]
struct Base {
    kind: &'static str,
    hook: u32,
    priority: i32,
}

impl TurnBy {
    fn chain(self) -> &'static str {
        match self {
            Self::Tproxy => "tproxy",
            Self::Redirect => "redirect",
        }
    }

    /// Before anybody else translates a destination (NF_IP_PRI_NAT_DST, -100): addresses are those that the
    /// client knows, and the first translation of a connection is its only one.
    fn base(self) -> Base {
        match self {
            Self::Tproxy => Base { kind: "filter", hook: libc::NF_INET_PRE_ROUTING as u32, priority: -150 },
            Self::Redirect => Base { kind: "nat", hook: libc::NF_INET_LOCAL_OUT as u32, priority: -101 },
        }
    }
}

/// The messages of one transaction.
struct Batch(Messages);

impl Batch {
    fn begin() -> Self {
        Self(Messages::new())
    }

    fn push(&mut self, what: i32, flags: i32, attributes: &Attributes) {
        let (kind, header) = message(what);
        self.0.push(kind, flags | libc::NLM_F_ACK, &header, attributes);
    }

    fn commit(self, owner: &Owner) -> io::Result<()> {
        owner.commit(self.0)
    }

    fn table(&mut self, name: &str) {
        let attributes =
            Attributes::new().text(NFTA_TABLE_NAME, name).be32(NFTA_TABLE_FLAGS, NFT_TABLE_F_OWNER);
        self.push(libc::NFT_MSG_NEWTABLE, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &attributes);
    }

    fn set(&mut self, table: &str) {
        let attributes = the_set(table)
            .be32(NFTA_SET_FLAGS, libc::NFT_SET_TIMEOUT as u32)
            .be32(NFTA_SET_KEY_TYPE, TYPE_MARK)
            .be32(NFTA_SET_KEY_LEN, KEY.len() as u32)
            .be32(NFTA_SET_ID, 1);
        self.push(libc::NFT_MSG_NEWSET, libc::NLM_F_CREATE, &attributes);
    }

    /// Adds or deletes the element that is the lease.
    fn lease(&mut self, table: &str, what: i32) {
        let new = what == libc::NFT_MSG_NEWSETELEM;
        let (mut ends, mut flags) = (Attributes::new(), 0);
        if new {
            ends = ends.be64(NFTA_SET_ELEM_TIMEOUT, LEASE.as_millis() as u64);
            flags = libc::NLM_F_CREATE;
        }
        self.push(what, flags, &the_lease(table, &ends));
    }

    fn chain(&mut self, table: &str, name: &str, base: Option<Base>) {
        let mut attributes = Attributes::new().text(NFTA_CHAIN_TABLE, table).text(NFTA_CHAIN_NAME, name);
        if let Some(base) = base {
            let place = Attributes::new()
                .be32(NFTA_HOOK_HOOKNUM, base.hook)
                .be32(NFTA_HOOK_PRIORITY, base.priority as u32);
            attributes = attributes
                .nest(NFTA_CHAIN_HOOK, &place)
                .text(NFTA_CHAIN_TYPE, base.kind)
                .be32(NFTA_CHAIN_POLICY, libc::NF_ACCEPT as u32);
        }
        self.push(libc::NFT_MSG_NEWCHAIN, libc::NLM_F_CREATE, &attributes);
    }

    fn rule(&mut self, table: &str, chain: &str, expressions: &[Attributes]) {
        let list = expressions
            .iter()
            .fold(Attributes::new(), |list, expression| list.nest(NFTA_LIST_ELEM, expression));
        let attributes = Attributes::new()
            .text(NFTA_RULE_TABLE, table)
            .text(NFTA_RULE_CHAIN, chain)
            .nest(NFTA_RULE_EXPRESSIONS, &list);
        self.push(libc::NFT_MSG_NEWRULE, libc::NLM_F_CREATE | libc::NLM_F_APPEND, &attributes);
    }
}

/// The name of the set that holds the lease, and its only key.
const SET: &str = "lease";
const KEY: [u8; 4] = [0, 0, 0, 1];
/// How `nft list` prints the key (TYPE_MARK, include/datatype.h of nftables); the kernel does not care.
const TYPE_MARK: u32 = 19;

/// The register all rules work in: sixteen bytes.
const REGISTER: u32 = libc::NFT_REG_1 as u32;
/// Beside it, where a port is needed too.
const PORT_REGISTER: u32 = libc::NFT_REG_2 as u32;

/// The expressions of the rule that passes everything while there is no lease.
fn unleased() -> Vec<Attributes> {
    let absent = Attributes::new()
        .text(NFTA_LOOKUP_SET, SET)
        .be32(NFTA_LOOKUP_SREG, REGISTER)
        .be32(NFTA_LOOKUP_FLAGS, libc::NFT_LOOKUP_F_INV as u32)
        .be32(NFTA_LOOKUP_SET_ID, 1);
    vec![immediate(REGISTER, &KEY), expression("lookup", &absent), verdict(libc::NF_ACCEPT)]
}

/// Ends a rule: the packet goes on, or no further.
fn verdict(code: i32) -> Attributes {
    let inner = Attributes::new().be32(NFTA_VERDICT_CODE, code as u32);
    let verdict = Attributes::new()
        .be32(NFTA_IMMEDIATE_DREG, libc::NFT_REG_VERDICT as u32)
        .nest(NFTA_IMMEDIATE_DATA, &Attributes::new().nest(NFTA_DATA_VERDICT, &inner));
    expression("immediate", &verdict)
}

/// Names the element that is the lease of a table; with attributes of its own.
fn the_lease(table: &str, own: &Attributes) -> Attributes {
    let key = Attributes::new().bytes(NFTA_DATA_VALUE, &KEY);
    let element = Attributes::new().nest(NFTA_SET_ELEM_KEY, &key).and(own);
    Attributes::new()
        .text(NFTA_SET_ELEM_LIST_TABLE, table)
        .text(NFTA_SET_ELEM_LIST_SET, SET)
        .nest(NFTA_SET_ELEM_LIST_ELEMENTS, &Attributes::new().nest(NFTA_LIST_ELEM, &element))
}

fn expression(name: &str, inner: &Attributes) -> Attributes {
    Attributes::new().text(NFTA_EXPR_NAME, name).nest(NFTA_EXPR_DATA, inner)
}

/// The expressions that let only this traffic go on.
fn matching(traffic: &Traffic) -> Vec<Attributes> {
    let mut rule = vec![meta(libc::NFT_META_L4PROTO), equal(&[traffic.protocol.number()])];
    if let Some(loopback) = traffic.loopback {
        let key = if traffic.hook == Hook::Output { libc::NFT_META_OIF } else { libc::NFT_META_IIF };
        let operation = if loopback { libc::NFT_CMP_EQ } else { libc::NFT_CMP_NEQ };
        rule.extend([meta(key), compare(operation, &LOOPBACK.to_ne_bytes())]);
    }
    if traffic.opens {
        rule.extend(opens_a_connection());
    }
    rule.extend(between(&traffic.from, &traffic.to));
    rule
}

/// The expressions that let only packets from there to there go on.
fn between(from: &Endpoint, to: &Endpoint) -> Vec<Attributes> {
    let mut rule = Vec::new();
    for (endpoint, source) in [(from, true), (to, false)] {
        if let Some(address) = endpoint.address {
            rule.extend(address_is(address.to_canonical(), source));
        }
        if let Some(port) = endpoint.port {
            // The ports are the first two words of a TCP and a UDP header alike.
            let offset = if source { 0 } else { 2 };
            rule.extend([payload(libc::NFT_PAYLOAD_TRANSPORT_HEADER, offset, 2), equal(&port.to_be_bytes())]);
        }
    }
    rule
}

/// The whole rule that turns some traffic.
fn turned(turn: &Turn) -> Vec<Attributes> {
    let version = if turn.at.is_ipv4() { libc::NFPROTO_IPV4 } else { libc::NFPROTO_IPV6 };
    let mut rule = vec![
        meta(libc::NFT_META_MARK),
        compare(libc::NFT_CMP_NEQ, &OURS.to_ne_bytes()),
        meta(libc::NFT_META_NFPROTO),
        equal(&[version as u8]),
        meta(libc::NFT_META_L4PROTO),
        equal(&[turn.protocol.number()]),
    ];
    if turn.protocol == Protocol::Tcp {
        rule.extend(opens_a_connection());
    }
    rule.extend(between(&turn.from, &turn.to));
    // What a socket stands in for must be delivered here: the kernel drops it when it would be forwarded
    // (ip_forward, net/ipv4/ip_forward.c). And what stays on this host is left to that.
    let to_us = if turn.by == TurnBy::Tproxy { libc::NFT_CMP_EQ } else { libc::NFT_CMP_NEQ };
    let kind = Attributes::new()
        .be32(NFTA_FIB_DREG, REGISTER)
        .be32(NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE)
        .be32(NFTA_FIB_FLAGS, NFTA_FIB_F_DADDR);
    rule.extend([expression("fib", &kind), compare(to_us, &u32::from(libc::RTN_LOCAL).to_ne_bytes())]);
    rule.push(immediate(PORT_REGISTER, &turn.at.port().to_be_bytes()));
    match turn.by {
        TurnBy::Tproxy => {
            let address = match turn.at.ip() {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            };
            rule.push(immediate(REGISTER, &address));
            let inner = Attributes::new()
                .be32(NFTA_TPROXY_FAMILY, version as u32)
                .be32(NFTA_TPROXY_REG_ADDR, REGISTER)
                .be32(NFTA_TPROXY_REG_PORT, PORT_REGISTER);
            rule.push(expression("tproxy", &inner));
        }
        TurnBy::Redirect => {
            let inner = Attributes::new()
                .be32(NFTA_REDIR_REG_PROTO_MIN, PORT_REGISTER)
                .be32(NFTA_REDIR_FLAGS, NF_NAT_RANGE_PROTO_SPECIFIED);
            rule.push(expression("redir", &inner));
        }
    }
    rule
}

/// Lets only a TCP segment go on that has SYN and neither ACK, RST nor FIN: the flags are the fourteenth byte
/// of its header (RFC 9293). A connection that was made before, and that connection tracking meets in
/// its middle, would be new to it.
fn opens_a_connection() -> [Attributes; 3] {
    const SYN: u8 = 2;
    const FIN_SYN_RST_ACK: u8 = 0x17;
    let inner = Attributes::new()
        .be32(NFTA_BITWISE_SREG, REGISTER)
        .be32(NFTA_BITWISE_DREG, REGISTER)
        .be32(NFTA_BITWISE_LEN, 1)
        .nest(NFTA_BITWISE_MASK, &Attributes::new().bytes(NFTA_DATA_VALUE, &[FIN_SYN_RST_ACK]))
        .nest(NFTA_BITWISE_XOR, &Attributes::new().bytes(NFTA_DATA_VALUE, &[0]));
    [payload(libc::NFT_PAYLOAD_TRANSPORT_HEADER, 13, 1), expression("bitwise", &inner), equal(&[SYN])]
}

fn immediate(register: u32, value: &[u8]) -> Attributes {
    let data = Attributes::new().bytes(NFTA_DATA_VALUE, value);
    let inner = Attributes::new().be32(NFTA_IMMEDIATE_DREG, register).nest(NFTA_IMMEDIATE_DATA, &data);
    expression("immediate", &inner)
}

/// LOOPBACK_IFINDEX, include/net/flow.h: `lo` is the first device of every namespace.
pub const LOOPBACK: u32 = 1;

/// Offsets of the addresses in an IPv4 (RFC 791) and an IPv6 header (RFC 8200).
fn address_is(address: IpAddr, source: bool) -> [Attributes; 4] {
    let (version, octets) = match address {
        IpAddr::V4(v4) => (libc::NFPROTO_IPV4, v4.octets().to_vec()),
        IpAddr::V6(v6) => (libc::NFPROTO_IPV6, v6.octets().to_vec()),
    };
    let offset = match (address, source) {
        (IpAddr::V4(_), true) => 12,
        (IpAddr::V4(_), false) => 16,
        (IpAddr::V6(_), true) => 8,
        (IpAddr::V6(_), false) => 24,
    };
    [
        meta(libc::NFT_META_NFPROTO),
        equal(&[version as u8]),
        payload(libc::NFT_PAYLOAD_NETWORK_HEADER, offset, octets.len() as u32),
        equal(&octets),
    ]
}

fn meta(key: i32) -> Attributes {
    expression("meta", &Attributes::new().be32(NFTA_META_KEY, key as u32).be32(NFTA_META_DREG, REGISTER))
}

fn payload(base: i32, offset: u32, length: u32) -> Attributes {
    let inner = Attributes::new()
        .be32(NFTA_PAYLOAD_DREG, REGISTER)
        .be32(NFTA_PAYLOAD_BASE, base as u32)
        .be32(NFTA_PAYLOAD_OFFSET, offset)
        .be32(NFTA_PAYLOAD_LEN, length);
    expression("payload", &inner)
}

fn equal(value: &[u8]) -> Attributes {
    compare(libc::NFT_CMP_EQ, value)
}

fn compare(operation: i32, value: &[u8]) -> Attributes {
    let inner = Attributes::new()
        .be32(NFTA_CMP_SREG, REGISTER)
        .be32(NFTA_CMP_OP, operation as u32)
        .nest(NFTA_CMP_DATA, &Attributes::new().bytes(NFTA_DATA_VALUE, value));
    expression("cmp", &inner)
}

/// What becomes of packets for a queue that nobody serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OrElse {
    Pass,
    Drop,
}

fn to_queue(queue: u16, by: QueueBy, or_else: OrElse) -> Attributes {
    let pass = or_else == OrElse::Pass;
    match by {
        QueueBy::Expression => {
            let flags = if pass { libc::NFT_QUEUE_FLAG_BYPASS as u16 } else { 0 };
            let inner = Attributes::new()
                .bytes(NFTA_QUEUE_NUM, &queue.to_be_bytes())
                .bytes(NFTA_QUEUE_TOTAL, &1_u16.to_be_bytes())
                .bytes(NFTA_QUEUE_FLAGS, &flags.to_be_bytes());
            expression("queue", &inner)
        }
        QueueBy::Target => {
            // struct xt_NFQ_info_v3 (include/uapi/linux/netfilter/xt_NFQUEUE.h): number, total, flags.
            let words = [queue, 1, if pass { NFQ_FLAG_BYPASS } else { 0 }, 0];
            let info: Vec<u8> = words.into_iter().flat_map(u16::to_ne_bytes).collect();
            let inner = Attributes::new()
                .text(NFTA_TARGET_NAME, "NFQUEUE")
                .be32(NFTA_TARGET_REV, 3)
                .bytes(NFTA_TARGET_INFO, &info);
            expression("target", &inner)
        }
    }
}

const NFQ_FLAG_BYPASS: u16 = 1;
const NFT_TABLE_F_OWNER: u32 = 2;
const NFTA_TABLE_NAME: i32 = 1;
const NFTA_TABLE_FLAGS: i32 = 2;
const NFTA_CHAIN_TABLE: i32 = 1;
const NFTA_CHAIN_NAME: i32 = 3;
const NFTA_CHAIN_HOOK: i32 = 4;
const NFTA_CHAIN_POLICY: i32 = 5;
const NFTA_CHAIN_TYPE: i32 = 7;
const NFTA_HOOK_HOOKNUM: i32 = 1;
const NFTA_HOOK_PRIORITY: i32 = 2;
const NFTA_RULE_TABLE: i32 = 1;
const NFTA_RULE_CHAIN: i32 = 2;
const NFTA_RULE_EXPRESSIONS: i32 = 4;
const NFTA_LIST_ELEM: i32 = 1;
const NFTA_EXPR_NAME: i32 = 1;
const NFTA_EXPR_DATA: i32 = 2;
const NFTA_DATA_VALUE: i32 = 1;
const NFTA_DATA_VERDICT: i32 = 2;
const NFTA_VERDICT_CODE: i32 = 1;
const NFTA_IMMEDIATE_DREG: i32 = 1;
const NFTA_IMMEDIATE_DATA: i32 = 2;
const NFTA_META_DREG: i32 = 1;
const NFTA_META_KEY: i32 = 2;
const NFTA_CMP_SREG: i32 = 1;
const NFTA_CMP_OP: i32 = 2;
const NFTA_CMP_DATA: i32 = 3;
const NFTA_PAYLOAD_DREG: i32 = 1;
const NFTA_PAYLOAD_BASE: i32 = 2;
const NFTA_PAYLOAD_OFFSET: i32 = 3;
const NFTA_PAYLOAD_LEN: i32 = 4;
const NFTA_LOOKUP_SET: i32 = 1;
const NFTA_LOOKUP_SREG: i32 = 2;
const NFTA_LOOKUP_SET_ID: i32 = 4;
const NFTA_LOOKUP_FLAGS: i32 = 5;
const NFTA_SET_TABLE: i32 = 1;
const NFTA_SET_NAME: i32 = 2;
const NFTA_SET_FLAGS: i32 = 3;
const NFTA_SET_KEY_TYPE: i32 = 4;
const NFTA_SET_KEY_LEN: i32 = 5;
const NFTA_SET_ID: i32 = 10;
const NFTA_SET_ELEM_KEY: i32 = 1;
const NFTA_SET_ELEM_TIMEOUT: i32 = 4;
const NFTA_SET_ELEM_LIST_TABLE: i32 = 1;
const NFTA_SET_ELEM_LIST_SET: i32 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: i32 = 3;
const NFTA_QUEUE_NUM: i32 = 1;
const NFTA_QUEUE_TOTAL: i32 = 2;
const NFTA_QUEUE_FLAGS: i32 = 3;
const NFTA_TARGET_NAME: i32 = 1;
const NFTA_TARGET_REV: i32 = 2;
const NFTA_TARGET_INFO: i32 = 3;
const NFTA_BITWISE_SREG: i32 = 1;
const NFTA_BITWISE_DREG: i32 = 2;
const NFTA_BITWISE_LEN: i32 = 3;
const NFTA_BITWISE_MASK: i32 = 4;
const NFTA_BITWISE_XOR: i32 = 5;
const NFTA_FIB_DREG: i32 = 1;
const NFTA_FIB_RESULT: i32 = 2;
const NFTA_FIB_FLAGS: i32 = 3;
const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
const NFTA_FIB_F_DADDR: u32 = 2;
const NFTA_TPROXY_FAMILY: i32 = 1;
const NFTA_TPROXY_REG_ADDR: i32 = 2;
const NFTA_TPROXY_REG_PORT: i32 = 3;
const NFTA_REDIR_REG_PROTO_MIN: i32 = 1;
const NFTA_REDIR_FLAGS: i32 = 3;
const NF_NAT_RANGE_PROTO_SPECIFIED: u32 = 2;
