//! The attackers' side: many connections on one thread, watched by one epoll.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use socket2::{Domain, SockRef, Socket, Type};

pub use rustix::event::epoll::EventFlags as Ready;

/// Connections on their way at once: fewer than any backlog that a server has.
const CONNECTING_MAX: usize = 128;

/// How many connections have one source address: an address has about 28,000 ports by default, and connections that ended in
/// order keep theirs for a minute.
const CONNECTIONS_PER_ADDRESS: usize = 4_000;

/// Events taken at once.
const EVENTS: usize = 512;

/// What an ended connection reports, watched or not.
pub const GONE: Ready = Ready::ERR.union(Ready::HUP);

/// How attackers connect.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manners {
    /// Receive buffer of each socket in bytes; the kernel doubles it and has a least size. `None`: the system's.
    pub receive_buffer_bytes: Option<usize>,
    /// Send buffer of each socket in bytes, likewise.
    pub send_buffer_bytes: Option<usize>,
}

impl Manners {
    /// Buffers as small as the kernel makes them: what is unread stays with the server.
    pub const TIGHT: Self = Self { receive_buffer_bytes: Some(1), send_buffer_bytes: Some(16 << 10) };
}

/// Connections of attackers. Those that end by themselves are reset.
pub struct Crowd {
    epoll: OwnedFd,
    members: Vec<Option<TcpStream>>,
    events: Vec<epoll::Event>,
}

impl Crowd {
    /// Nobody.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, members: Vec::new(), events: Vec::with_capacity(EVENTS) })
    }

    /// Connections to `address`, all of them established, watched for nothing but their end.
    ///
    /// # Errors
    /// Of the system, or when they are not established by `deadline`.
    pub fn connect(address: SocketAddr, count: usize, manners: Manners, deadline: Instant) -> io::Result<Self> {
        let mut crowd = Self::new()?;
        let (mut established, mut pending) = (0, 0);
        while established < count {
            while pending < CONNECTING_MAX && crowd.members.len() < count {
                crowd.begin(address, manners)?;
                pending += 1;
            }
            if Instant::now() >= deadline {
                let text = format!("{established} of {count} connections are established in time");
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            for (member, ready) in crowd.poll(Duration::from_millis(100))? {
                if let Some(error) = crowd.members[member].as_ref().and_then(|stream| stream.take_error().transpose()) {
                    let error = error?;
                    // The server may end a connection while others are on their way: that is for the attack to see.
                    if error.kind() != io::ErrorKind::ConnectionReset {
                        return Err(error);
                    }
                }
                if ready.intersects(Ready::OUT | GONE) {
                    crowd.watch(member, Ready::empty())?;
                    established += 1;
                    pending -= 1;
                }
            }
        }
        Ok(crowd)
    }

    /// Starts one more connection, watched for being established (`OUT`); returns its number.
    pub fn begin(&mut self, address: SocketAddr, manners: Manners) -> io::Result<usize> {
        let number = self.members.len();
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), None)?;
        if let Some(bytes) = manners.receive_buffer_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        if let Some(bytes) = manners.send_buffer_bytes {
            socket.set_send_buffer_size(bytes)?;
        }
        socket.bind(&SocketAddr::V4(source(number)).into())?;
        match socket.connect(&address.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
        epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(number as u64), Ready::OUT)?;
        self.members.push(Some(socket.into()));
        Ok(number)
    }

    /// Chooses what a member is watched for; its end always is.
    pub fn watch(&self, member: usize, interest: Ready) -> io::Result<()> {
        let Some(stream) = &self.members[member] else { return Ok(()) };
        Ok(epoll::modify(&self.epoll, stream, epoll::EventData::new_u64(member as u64), interest)?)
    }

    /// Watches a member no more, not even for its end.
    pub fn ignore(&self, member: usize) -> io::Result<()> {
        let Some(stream) = &self.members[member] else { return Ok(()) };
        Ok(epoll::delete(&self.epoll, stream)?)
    }

    /// Watches all members for the same.
    pub fn watch_all(&self, interest: Ready) -> io::Result<()> {
        (0..self.members.len()).try_for_each(|member| self.watch(member, interest))
    }

    /// Waits for something to happen, at most so long.
    pub fn poll(&mut self, at_most: Duration) -> io::Result<Vec<(usize, Ready)>> {
        self.events.clear();
        let at_most = Timespec::try_from(at_most).map_err(io::Error::other)?;
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&at_most)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.events.iter().map(|event| (event.data.u64() as usize, event.flags)).collect())
    }

    /// The connection of a member that is still there.
    pub fn stream(&self, member: usize) -> Option<&TcpStream> {
        self.members[member].as_ref()
    }

    /// Members that are still there.
    pub fn present(&self) -> impl Iterator<Item = (usize, &TcpStream)> {
        self.members.iter().enumerate().filter_map(|(number, stream)| Some((number, stream.as_ref()?)))
    }

    /// How many have connected, whatever became of them.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Resets a member, if it is there; says whether it was.
    pub fn dismiss(&mut self, member: usize) -> bool {
        let stream = self.members[member].take();
        if let Some(stream) = &stream {
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
        stream.is_some()
    }

    /// Half-closes all members, and dismisses each as its peer finishes or `deadline` comes.
    pub fn leave_in_order(mut self, deadline: Instant) -> io::Result<()> {
        for (_, stream) in self.present() {
            let _ = stream.shutdown(Shutdown::Write);
        }
        self.watch_all(Ready::IN)?;
        while self.present().next().is_some() && Instant::now() < deadline {
            for (member, _) in self.poll(Duration::from_millis(100))? {
                let read = self.stream(member).map(|mut stream| stream.read(&mut [0; 4096]));
                match read {
                    Some(Ok(1..)) => {}
                    Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                    _ => drop(self.members[member].take()),
                }
            }
        }
        Ok(())
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for member in 0..self.members.len() {
            self.dismiss(member);
        }
    }
}

/// The source address of a connection with this number: from 127.0.1.1 upwards.
fn source(number: usize) -> SocketAddrV4 {
    let block = (number / CONNECTIONS_PER_ADDRESS % 250) as u8;
    SocketAddrV4::new(Ipv4Addr::new(127, 0, 1, 1 + block), 0)
}

/// What sending came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sending {
    /// The system takes more.
    Open,
    /// It takes no more now.
    Blocked,
    /// The connection has ended.
    Ended,
}

/// Sends a chunk, once: with `Open` there may be more to come, which a level-triggered watch says.
pub fn send_once(mut stream: &TcpStream, chunk: &[u8]) -> Sending {
    match stream.write(chunk) {
        Ok(_) => Sending::Open,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Sending::Blocked,
        Err(_) => Sending::Ended,
    }
}
