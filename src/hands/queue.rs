//! The packet queue: packets wait in the kernel until we say that they may go on (NFQUEUE,
//! include/uapi/linux/netfilter/nfnetlink_queue.h).
//!
//! One thread hears of each packet, asks a judge what becomes of it, and says so to the kernel; what is to wait it
//! gives back when it is due. When we die the kernel drops what we hold, and with `bypass` in the rule everything after
//! passes; TCP sends again, so connections survive.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;

use super::forge::{Forge, Forged};
use super::resend::Resend;
use super::rules::Hook;
use crate::base::clock::since_boot;
use crate::host::netlink::{Attributes, Messages, Socket, attributes, messages};

/// So many bytes of a packet are shown where its headers are enough: IPv6 with extensions, and TCP.
const SHOWN: u32 = 128;
/// So many where all of it is: what one attribute can hold (nfqnl_set_mode, net/netfilter/nfnetlink_queue.c).
const ALL: u32 = 0xffff - 4;
/// The kernel holds at most so many packets for us, then lets them pass (NFQA_CFG_F_FAIL_OPEN).
const MOST_PACKETS: u32 = 65_536;
/// We hold at most so many bytes, then the oldest packet goes early: the memory is the kernel's.
const MOST_BYTES: u64 = 256 << 20;
/// Packets heard of in one system call, and bytes for each: attributes and what is shown of it.
const BATCH: usize = 64;
const BESIDES: usize = 640;
/// Verdicts in one system call.
const AT_ONCE: usize = 256;
/// How many hold times are remembered for the proof that packets are held as asked.
const REMEMBERED: usize = 1024;

/// Why packets cannot be queued.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Somebody else has that number.
    #[error("packet queue {0} is in use by another program, or CAP_NET_ADMIN is missing")]
    Taken(u16),
    /// Anything else.
    #[error("packet queue, {0}: {1}")]
    Refused(&'static str, io::Error),
}

/// A packet that waits for our word.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    /// Where it was met.
    pub hook: Hook,
    /// Whether it came over loopback.
    pub loopback: bool,
    /// Its bytes from the IP header on, as many as were asked for.
    pub shown: &'a [u8],
    /// Whether that is all of it.
    pub whole: bool,
    /// How many bytes it has in all.
    pub bytes: u32,
}

/// What becomes of a packet. Times are since boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It goes on at once.
    Pass,
    /// It goes on then, not before.
    Hold(Duration),
    /// It goes no further. No sender hears of it.
    Drop,
    /// It goes on, and once more. Needs [`Manner::twice`]; a packet that is not shown whole just passes.
    Twice,
    /// Instead of it these bytes go on, IP header included, with whatever checksums they have.
    Replace(Vec<u8>),
    /// Then it goes no further, and these are sent; when all is let pass before, it goes on as it is. Needs
    /// [`Manner::answers`].
    Answer(Duration, Vec<Forged>),
}

/// Decides what becomes of a packet that came now.
pub type Judge = Box<dyn FnMut(&Packet<'_>, Duration) -> Fate + Send>;

/// How packets are shown to a judge, and what it promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manner {
    bulk: bool,
    shown: u32,
    in_turn: bool,
    sends: Sends,
}

/// What is sent besides verdicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sends {
    Nothing,
    Copies,
    Answers,
}

impl Manner {
    /// Their headers, large segments in one piece: bulk stays bulk. With `in_turn` the judge promises to hold packets
    /// only, due in the order in which they came, which lets many go with one word.
    #[must_use]
    pub fn bulk(in_turn: bool) -> Self {
        Self { bulk: true, shown: SHOWN, in_turn, sends: Sends::Nothing }
    }

    /// The headers of every packet, cut up as it goes over the wire.
    #[must_use]
    pub fn each() -> Self {
        Self { bulk: false, ..Self::bulk(false) }
    }

    /// Every packet whole, its checksums finished.
    #[must_use]
    pub fn whole() -> Self {
        Self { shown: ALL, ..Self::each() }
    }

    /// Every packet whole, so that it can go on twice.
    #[must_use]
    pub fn twice() -> Self {
        Self { sends: Sends::Copies, ..Self::whole() }
    }

    /// Every packet whole, so that it can be answered.
    #[must_use]
    pub fn answers() -> Self {
        Self { sends: Sends::Answers, ..Self::whole() }
    }

    /// Whether copies are sent, which the rules must let pass.
    #[must_use]
    pub fn resends(self) -> bool {
        self.sends == Sends::Copies
    }
}

/// What the queue has done, for whoever wants proof.
#[derive(Debug, Default)]
pub struct Tally {
    held: AtomicU64,
    dropped: AtomicU64,
    doubled: AtomicU64,
    changed: AtomicU64,
    recent: Mutex<VecDeque<Duration>>,
}

impl Tally {
    /// How many went no further.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// How many went on twice.
    #[must_use]
    pub fn doubled(&self) -> u64 {
        self.doubled.load(Ordering::Relaxed)
    }

    /// How many went on with other bytes.
    #[must_use]
    pub fn changed(&self) -> u64 {
        self.changed.load(Ordering::Relaxed)
    }

    /// How many packets were held and given back.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// The last hold times, the shortest first.
    #[must_use]
    pub fn recent(&self) -> Vec<Duration> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let mut times: Vec<Duration> = recent.iter().copied().collect();
        times.sort_unstable();
        times
    }

    /// The median of the last hold times; `None` when nothing was held yet.
    #[must_use]
    pub fn median(&self) -> Option<Duration> {
        let times = self.recent();
        times.get(times.len() / 2).copied()
    }

    /// Takes down how long some were held.
    pub fn add(&self, times: &[Duration]) {
        self.held.fetch_add(times.len() as u64, Ordering::Relaxed);
        let last = &times[times.len().saturating_sub(REMEMBERED)..];
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let over = (recent.len() + last.len()).saturating_sub(REMEMBERED);
        recent.drain(..over);
        recent.extend(last);
    }
}

/// A queue number that is ours.
#[derive(Debug)]
pub struct Queue {
    socket: Socket,
    number: u16,
}

impl Queue {
    /// Takes a queue number, in the network namespace of this thread. Until a rule sends packets to it,
    /// this touches no traffic.
    ///
    /// # Errors
    /// When it is taken, or the kernel has no packet queues.
    pub fn bind(number: u16) -> Result<Self, QueueError> {
        let refused = |doing| move |why: io::Error| QueueError::Refused(doing, why);
        let socket = Socket::open(libc::NETLINK_NETFILTER).map_err(refused("opening its socket"))?;
        let queue = Self { socket, number };
        // struct nfqnl_msg_config_cmd: a command, a byte of padding, a protocol family.
        let bind = Attributes::new().bytes(libc::NFQA_CFG_CMD, &[libc::NFQNL_CFG_CMD_BIND as u8, 0, 0, 0]);
        queue.configure(&bind).map_err(|why| match why.raw_os_error() {
            Some(libc::EPERM | libc::EBUSY) => QueueError::Taken(number),
            _ => QueueError::Refused("taking its number (CONFIG_NETFILTER_NETLINK_QUEUE is needed)", why),
        })?;
        Ok(queue)
    }

    /// Says what of packets is shown.
    fn show(&self, manner: Manner) -> io::Result<()> {
        // struct nfqnl_msg_config_params, packed: how much, and that it is packets. With NFQA_CFG_F_GSO the
        // kernel does not cut large segments up and does not finish their checksums.
        let copy = [&manner.shown.to_be_bytes()[..], &[libc::NFQNL_COPY_PACKET as u8]].concat();
        let both = (libc::NFQA_CFG_F_GSO | libc::NFQA_CFG_F_FAIL_OPEN) as u32;
        let flags = if manner.bulk { both } else { libc::NFQA_CFG_F_FAIL_OPEN as u32 };
        let how = Attributes::new()
            .bytes(libc::NFQA_CFG_PARAMS, &copy)
            .be32(libc::NFQA_CFG_QUEUE_MAXLEN, MOST_PACKETS)
            .be32(libc::NFQA_CFG_MASK, both)
            .be32(libc::NFQA_CFG_FLAGS, flags);
        self.configure(&how)?;
        self.socket.buffer(32 << 20);
        let _ = self.socket.prefer(libc::SOL_NETLINK, libc::NETLINK_NO_ENOBUFS, 1);
        Ok(())
    }

    fn configure(&self, attributes: &Attributes) -> io::Result<()> {
        let mut asked = Messages::new();
        let (kind, header) = self.message(libc::NFQNL_MSG_CONFIG);
        asked.push(kind, libc::NLM_F_ACK, &header, attributes);
        self.socket.ask(&asked)
    }

    /// A message's kind and its struct nfgenmsg: the queue's number is res_id.
    fn message(&self, what: i32) -> (i32, [u8; 4]) {
        let [high, low] = self.number.to_be_bytes();
        (libc::NFNL_SUBSYS_QUEUE << 8 | what, [libc::AF_UNSPEC as u8, libc::NFNETLINK_V0 as u8, high, low])
    }

    /// Begins to do with what comes as `judge` says.
    ///
    /// # Errors
    /// When the kernel refuses, or there is no thread to be had.
    pub fn serve(self, judge: Judge, manner: Manner) -> Result<Holding, QueueError> {
        let refused = |doing| move |why: io::Error| QueueError::Refused(doing, why);
        self.show(manner).map_err(refused("setting it up"))?;
        let again = (manner.sends == Sends::Copies).then(|| Resend::open(self.number)).transpose();
        let forge = (manner.sends == Sends::Answers).then(Forge::open).transpose();
        let raw = "opening a raw socket (CAP_NET_RAW is needed)";
        let (again, forge) = (again.map_err(refused(raw))?, forge.map_err(refused(raw))?);
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|why| QueueError::Refused("making an eventfd", why.into()))?;
        let wake = Arc::new(wake);
        let tally = Arc::new(Tally::default());
        let (orders, received) = channel();
        let holder = Holder {
            queue: self,
            judge,
            again,
            forge,
            in_turn: manner.in_turn,
            due: BinaryHeap::new(),
            pass: Vec::new(),
            bytes: 0,
            arrivals: 0,
            passing: false,
            tally: Arc::clone(&tally),
        };
        let thread = {
            let wake = Arc::clone(&wake);
            std::thread::Builder::new()
                .name("packets".to_owned())
                .spawn(move || serve(holder, manner, &received, &wake))
                .map_err(refused("starting its thread"))?
        };
        Ok(Holding { orders, wake, tally, thread: Some(thread) })
    }
}

enum Order {
    Pass(Sender<()>),
    End,
}

/// Packets being held. Dropping it gives all back and closes the queue.
#[derive(Debug)]
pub struct Holding {
    orders: Sender<Order>,
    wake: Arc<EventFd>,
    tally: Arc<Tally>,
    thread: Option<JoinHandle<()>>,
}

impl Holding {
    /// What was done until now.
    #[must_use]
    pub fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    /// Gives back all that is held, in order, and from now on everything as it comes. Returns when the
    /// queue is empty.
    pub fn let_pass(&self) {
        let (done, heard) = channel();
        self.order(Order::Pass(done));
        let _ = heard.recv_timeout(Duration::from_secs(5));
    }

    fn order(&self, order: Order) {
        let _ = self.orders.send(order);
        let _ = self.wake.write(1);
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.let_pass();
        self.order(Order::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One packet held: due first, and of those due together the one that came first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    due: Duration,
    arrival: u64,
    id: u32,
    bytes: u32,
    came: Duration,
    answer: Option<Vec<Forged>>,
}

struct Holder {
    queue: Queue,
    judge: Judge,
    again: Option<Resend>,
    forge: Option<Forge>,
    in_turn: bool,
    due: BinaryHeap<Reverse<Waiting>>,
    /// Room for the numbers of those that go on at once.
    pass: Vec<u32>,
    bytes: u64,
    arrivals: u64,
    passing: bool,
    tally: Arc<Tally>,
}

fn serve(mut holder: Holder, manner: Manner, orders: &Receiver<Order>, wake: &EventFd) {
    prompt();
    let mut batch = Batch::new(manner.shown as usize + BESIDES);
    let mut more = false;
    loop {
        // Where more came than fit, nobody has to say that there is more.
        if !more {
            let until = holder.due.peek().map(|Reverse(next)| next.due.saturating_sub(since_boot()));
            let mut watched = [
                PollFd::new(holder.queue.socket.as_fd(), PollFlags::POLLIN),
                PollFd::new(wake.as_fd(), PollFlags::POLLIN),
            ];
            let _ = ppoll(&mut watched, until.map(TimeSpec::from_duration), None);
            more = watched[0].any().unwrap_or(true);
            if watched[1].any().unwrap_or(true) {
                let _ = wake.read();
            }
        }
        if more {
            more = holder.take(&mut batch) == BATCH;
        }
        holder.give_back(since_boot());
        for order in orders.try_iter() {
            match order {
                Order::Pass(done) => {
                    holder.passing = true;
                    holder.give_back(Duration::MAX);
                    while holder.take(&mut batch) > 0 {}
                    let _ = done.send(());
                }
                Order::End => return,
            }
        }
    }
}

/// Wakes to the microsecond, and before the host's ordinary work, as far as we may: a packet that is due
/// and waits for us is delayed by more than was asked. The kernel's own queueing would run before any
/// process too; and it never gives real-time threads all of a processor (sched_rt_runtime_us, sched(7)).
fn prompt() {
    let _ = nix::sys::prctl::set_timerslack(1);
    let lowest = libc::sched_param { sched_priority: 1 };
    // SAFETY: both calls read integers and a struct that outlives them; 0 is the calling thread.
    unsafe {
        if libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const lowest) < 0 {
            libc::setpriority(libc::PRIO_PROCESS, 0, -20);
        }
    }
}

impl Holder {
    /// Hears of the packets that came, once; how many there were.
    fn take(&mut self, batch: &mut Batch) -> usize {
        let datagrams = batch.receive(&self.queue.socket);
        let now = since_boot();
        let (mut pass, mut drop) = (std::mem::take(&mut self.pass), Vec::new());
        for datagram in datagrams {
            for message in messages(batch.datagram(datagram)) {
                let Some(arrived) = arrived(message.kind, message.body) else { continue };
                let fate = if self.passing { Fate::Pass } else { (self.judge)(&arrived.packet, now) };
                match fate {
                    Fate::Hold(due) if due > now => self.hold(&arrived, due, now, None),
                    Fate::Answer(due, answer) if due > now => self.hold(&arrived, due, now, Some(answer)),
                    Fate::Answer(_, answer) => {
                        self.answer(&answer);
                        drop.push(arrived.id);
                    }
                    Fate::Pass | Fate::Hold(_) => pass.push(arrived.id),
                    Fate::Drop => drop.push(arrived.id),
                    Fate::Twice => self.twice(&arrived),
                    Fate::Replace(bytes) => {
                        self.tally.changed.fetch_add(1, Ordering::Relaxed);
                        self.say(libc::NFQNL_MSG_VERDICT, libc::NF_ACCEPT, &[arrived.id], Some(&bytes));
                    }
                }
            }
        }
        self.say(libc::NFQNL_MSG_VERDICT, libc::NF_DROP, &drop, None);
        if self.due.is_empty() {
            self.pass_up_to(pass.last());
        } else {
            self.say(libc::NFQNL_MSG_VERDICT, libc::NF_ACCEPT, &pass, None);
        }
        pass.clear();
        self.pass = pass;
        self.tally.dropped.fetch_add(drop.len() as u64, Ordering::Relaxed);
        batch.received
    }

    fn hold(&mut self, arrived: &Arrived<'_>, due: Duration, came: Duration, answer: Option<Vec<Forged>>) {
        self.arrivals += 1;
        self.bytes += u64::from(arrived.bytes);
        let (arrival, id, bytes) = (self.arrivals, arrived.id, arrived.bytes);
        self.due.push(Reverse(Waiting { due, arrival, id, bytes, came, answer }));
    }

    fn answer(&self, answer: &[Forged]) {
        for packet in answer {
            self.forge.iter().for_each(|forge| forge.send(packet));
        }
    }

    /// The kernel has no verdict for that: a packet goes on, and a copy of it starts anew from here.
    fn twice(&self, arrived: &Arrived<'_>) {
        self.say(libc::NFQNL_MSG_VERDICT, libc::NF_ACCEPT, &[arrived.id], None);
        let sent = self
            .again
            .as_ref()
            .is_some_and(|again| arrived.packet.whole && again.send(arrived.packet.shown).is_ok());
        self.tally.doubled.fetch_add(u64::from(sent), Ordering::Relaxed);
    }

    /// Gives back or answers what is due by then, and what is too much to hold.
    fn give_back(&mut self, by: Duration) {
        let (mut ids, mut answered, mut times, now) = (Vec::new(), Vec::new(), Vec::new(), since_boot());
        while let Some(Reverse(next)) = self.due.peek() {
            if next.due > by && self.bytes <= MOST_BYTES {
                break;
            }
            let Some(Reverse(next)) = self.due.pop() else { break };
            self.bytes -= u64::from(next.bytes);
            times.push(now.saturating_sub(next.came));
            match next.answer.filter(|_| !self.passing) {
                Some(answer) => {
                    self.answer(&answer);
                    answered.push(next.id);
                }
                None => ids.push(next.id),
            }
        }
        if times.is_empty() {
            return;
        }
        self.say(libc::NFQNL_MSG_VERDICT, libc::NF_DROP, &answered, None);
        self.tally.dropped.fetch_add(answered.len() as u64, Ordering::Relaxed);
        if self.in_turn {
            self.pass_up_to(ids.last());
        } else {
            self.say(libc::NFQNL_MSG_VERDICT, libc::NF_ACCEPT, &ids, None);
        }
        self.tally.add(&times);
    }

    /// Lets all go on that wait in the kernel up to one: it numbers packets as they come.
    fn pass_up_to(&self, last: Option<&u32>) {
        self.say(
            libc::NFQNL_MSG_VERDICT_BATCH,
            libc::NF_ACCEPT,
            last.map_or(&[], std::slice::from_ref),
            None,
        );
    }

    /// Says what becomes of packets, and which bytes they go on with if not their own.
    fn say(&self, what: i32, verdict: i32, ids: &[u32], bytes: Option<&[u8]>) {
        if ids.is_empty() {
            return;
        }
        let (kind, header) = self.queue.message(what);
        let mut one = Messages::new();
        // struct nfqnl_msg_verdict_hdr: the verdict, and the packet's number, which ends the message but for other bytes.
        let verdict = (verdict as u32).to_be_bytes();
        let own =
            bytes.map_or_else(Attributes::new, |bytes| Attributes::new().bytes(libc::NFQA_PAYLOAD, bytes));
        let attributes = own.bytes(libc::NFQA_VERDICT_HDR, &[verdict, [0; 4]].concat());
        one.push(kind, 0, &header, &attributes);
        let one = one.bytes();
        let number = one.len() - 4;
        let mut verdicts = Vec::with_capacity(one.len() * ids.len().min(AT_ONCE));
        for some in ids.chunks(AT_ONCE) {
            verdicts.clear();
            for id in some {
                verdicts.extend_from_slice(&one[..number]);
                verdicts.extend_from_slice(&id.to_be_bytes());
            }
            // A packet that is gone meanwhile (its hook was removed) is an error nobody can mend.
            let _ = self.queue.socket.send(&verdicts);
        }
    }
}

/// A queue that swallows what comes: one whose owner never said what it wants to see is full from the beginning
/// (NFQNL_COPY_NONE in nfqnl_enqueue_packet, net/netfilter/nfnetlink_queue.c).
#[derive(Debug)]
pub struct Abyss(#[expect(dead_code, reason = "it is the socket's being open that counts")] Queue);

impl Abyss {
    /// Takes a queue number for good, in the network namespace of this thread.
    ///
    /// # Errors
    /// As [`Queue::bind`].
    pub fn open(number: u16) -> Result<Self, QueueError> {
        Queue::bind(number).map(Self)
    }
}

struct Arrived<'a> {
    id: u32,
    bytes: u32,
    packet: Packet<'a>,
}

/// The packet of a message, if it is one.
fn arrived(kind: i32, body: &[u8]) -> Option<Arrived<'_>> {
    if kind != libc::NFNL_SUBSYS_QUEUE << 8 | libc::NFQNL_MSG_PACKET {
        return None;
    }
    let word = |value: &[u8]| value.get(..4)?.try_into().ok().map(u32::from_be_bytes);
    let (mut id, mut hook, mut loopback, mut shown, mut whole) = (None, Hook::Input, false, &body[..0], None);
    for (kind, value) in attributes(body.get(4..)?) {
        match kind {
            // struct nfqnl_msg_packet_hdr, packed: id, protocol, hook.
            libc::NFQA_PACKET_HDR => {
                id = word(value);
                hook = match value.get(6).copied().map(i32::from) {
                    Some(libc::NF_INET_FORWARD) => Hook::Forward,
                    Some(libc::NF_INET_LOCAL_OUT) => Hook::Output,
                    _ => Hook::Input,
                };
            }
            libc::NFQA_IFINDEX_INDEV => loopback = word(value) == Some(super::rules::LOOPBACK),
            libc::NFQA_PAYLOAD => shown = value,
            // The length before it was cut to what is shown.
            libc::NFQA_CAP_LEN => whole = word(value),
            _ => {}
        }
    }
    let bytes = whole.unwrap_or(shown.len() as u32);
    let whole = bytes as usize == shown.len();
    Some(Arrived { id: id?, bytes, packet: Packet { hook, loopback, shown, whole, bytes } })
}

/// Room for many datagrams in one system call.
struct Batch {
    slot: usize,
    bytes: Vec<u8>,
    lengths: [usize; BATCH],
    received: usize,
}

impl Batch {
    fn new(slot: usize) -> Self {
        Self { slot, bytes: vec![0; BATCH * slot], lengths: [0; BATCH], received: 0 }
    }

    fn datagram(&self, n: usize) -> &[u8] {
        &self.bytes[n * self.slot..n * self.slot + self.lengths[n].min(self.slot)]
    }

    /// Receives what is there, without waiting.
    fn receive(&mut self, socket: &Socket) -> std::ops::Range<usize> {
        let mut vectors: [libc::iovec; BATCH] = std::array::from_fn(|n| libc::iovec {
            iov_base: self.bytes[n * self.slot..].as_mut_ptr().cast(),
            iov_len: self.slot,
        });
        // SAFETY: zeros are a valid mmsghdr. Each vector points to its own slot of `bytes`, which outlives
        // the call and is not otherwise used during it; the kernel fills at most `slot` bytes of each.
        let received = unsafe {
            let mut headers: [libc::mmsghdr; BATCH] = std::mem::zeroed();
            for (header, vector) in headers.iter_mut().zip(&mut vectors) {
                header.msg_hdr.msg_iov = vector;
                header.msg_hdr.msg_iovlen = 1;
            }
            let fd = socket.as_fd().as_raw_fd();
            let received = libc::recvmmsg(
                fd,
                headers.as_mut_ptr(),
                BATCH as u32,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            );
            for (length, header) in self.lengths.iter_mut().zip(&headers) {
                *length = header.msg_len as usize;
            }
            received
        };
        self.received = usize::try_from(received).unwrap_or(0);
        0..self.received
    }
}
