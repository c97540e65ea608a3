//! Listeners and connections: a thread each, all of which end with the simulator.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use time::macros::format_description;

use crate::fault::{self, Action, Effect, Subject};
use crate::http::{self, Answer, Incoming, Manner, NoRequest, RequestReader};
use crate::log::{Call, Request, parameter};
use crate::state::{Shared, SharedRef};
use crate::{login, management};

/// Which of the two hosts a connection reached.
#[derive(Clone, Copy, PartialEq)]
enum Host {
    Login,
    Management,
}

/// The running threads; stops them when dropped.
pub(crate) struct Server {
    shared: SharedRef,
    pub(crate) addresses: [SocketAddr; 2],
    acceptors: Vec<JoinHandle<()>>,
    open: Arc<Mutex<Open>>,
}

/// Connections in progress.
#[derive(Default)]
struct Open {
    streams: HashMap<usize, TcpStream>,
    threads: Vec<JoinHandle<()>>,
}

fn lock(open: &Mutex<Open>) -> MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn bind(port: u16) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

impl Server {
    pub(crate) fn start(
        shared: SharedRef,
        login: (TcpListener, SocketAddr),
        management: (TcpListener, SocketAddr),
        tls: Option<&Arc<ServerConfig>>,
    ) -> io::Result<Self> {
        let mut server = Self {
            shared,
            addresses: [login.1, management.1],
            acceptors: Vec::new(),
            open: Arc::default(),
        };
        for (listener, host) in [(login.0, Host::Login), (management.0, Host::Management)] {
            let (shared, open) = (Arc::clone(&server.shared), Arc::clone(&server.open));
            let tls = tls.cloned();
            let acceptor = thread::Builder::new()
                .name("simulator-accept".to_owned())
                .spawn(move || accept(&listener, host, &shared, &open, tls.as_ref()))?;
            server.acceptors.push(acceptor);
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.set();
        for (acceptor, address) in self.acceptors.drain(..).zip(self.addresses) {
            // A connection of our own wakes it; without one it cannot be waited for.
            if TcpStream::connect(address).is_ok() {
                let _ = acceptor.join();
            }
        }
        let threads = {
            let mut open = lock(&self.open);
            for stream in open.streams.values() {
                let _ = stream.shutdown(Shutdown::Both);
            }
            std::mem::take(&mut open.threads)
        };
        for thread in threads {
            let _ = thread.join();
        }
    }
}

fn accept(
    listener: &TcpListener,
    host: Host,
    shared: &SharedRef,
    open: &Arc<Mutex<Open>>,
    tls: Option<&Arc<ServerConfig>>,
) {
    for stream in listener.incoming() {
        if shared.stop.is_set() {
            return;
        }
        let Ok(stream) = stream else { continue };
        let Ok(copy) = stream.try_clone() else { continue };
        let number = shared.accepted.fetch_add(1, Ordering::SeqCst) + 1;
        let _ = stream.set_nodelay(true);
        lock(open).streams.insert(number, copy);
        let connection = Connection { shared: Arc::clone(shared), host, number };
        let (tls, ours) = (tls.cloned(), Arc::clone(open));
        let spawned =
            thread::Builder::new().name("simulator-connection".to_owned()).spawn(move || {
                match tls {
                    None => connection.run(&mut Plain(stream)),
                    Some(config) => {
                        if let Ok(session) = ServerConnection::new(config) {
                            connection.run(&mut Tls(StreamOwned::new(session, stream)));
                        }
                    }
                }
                lock(&ours).streams.remove(&number);
            });
        let mut open = lock(open);
        open.threads.retain(|thread| !thread.is_finished());
        match spawned {
            Ok(thread) => open.threads.push(thread),
            Err(_) => drop(open.streams.remove(&number)),
        }
    }
}

/// A stream, plain or encrypted, and the socket below it.
trait Wire: Read + Write {
    fn socket(&self) -> &TcpStream;
    /// Ends it politely.
    fn close(&mut self) {}
}

struct Plain(TcpStream);

impl Wire for Plain {
    fn socket(&self) -> &TcpStream {
        &self.0
    }
}

impl Read for Plain {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Plain {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Tls(StreamOwned<ServerConnection, TcpStream>);

impl Wire for Tls {
    fn socket(&self) -> &TcpStream {
        &self.0.sock
    }

    fn close(&mut self) {
        self.0.conn.send_close_notify();
        let _ = self.0.flush();
    }
}

impl Read for Tls {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Tls {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Takes in some of what a client still sends: closing at once would reset the connection, and
/// with it the answer on its way.
fn linger(mut socket: &TcpStream) {
    let _ = socket.shutdown(Shutdown::Write);
    let _ = socket.set_read_timeout(Some(Duration::from_secs(1)));
    let mut ignored = [0; 16 * 1024];
    for _ in 0..100 {
        if !matches!(socket.read(&mut ignored), Ok(1..)) {
            break;
        }
    }
}

/// Says nothing until there is nobody left to wait, or the simulator ends.
fn hang(mut socket: &TcpStream) {
    let mut ignored = [0; 1024];
    while matches!(socket.read(&mut ignored), Ok(1..)) {}
}

struct Connection {
    shared: SharedRef,
    host: Host,
    number: usize,
}

/// Whether another request may follow.
enum Next {
    Request,
    End,
    /// End without a farewell.
    Abort,
}

impl Connection {
    fn run(&self, wire: &mut impl Wire) {
        let mut reader = RequestReader::default();
        loop {
            let next = match reader.next(wire) {
                Ok(request) => self.serve(wire, &request),
                Err(NoRequest::Ended) => Next::End,
                Err(NoRequest::Bad(status)) => {
                    let answer = self.dated(Answer::empty(status));
                    let manner = Manner { close: true, ..Manner::default() };
                    let _ = http::send(wire, answer, &manner);
                    wire.close();
                    linger(wire.socket());
                    Next::Abort
                }
            };
            match next {
                Next::Request if !self.shared.stop.is_set() => {}
                Next::Abort => break,
                _ => {
                    wire.close();
                    break;
                }
            }
        }
        let _ = wire.socket().shutdown(Shutdown::Both);
    }

    /// Every answer has the simulator's own time, or a wrong one.
    fn dated(&self, answer: Answer) -> Answer {
        let format = format_description!(
            "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
        );
        answer.header("Date", self.shared.clock.told().format(format).unwrap_or_default())
    }

    fn serve(&self, wire: &mut impl Wire, request: &Incoming) -> Next {
        let shared = &self.shared;
        let (entry, effect) = self.receive(request);
        let management = self.host == Host::Management;
        if management {
            shared.stop.pause(shared.delay);
        }
        let effect = effect.unwrap_or_default();
        shared.stop.pause(effect.delay);

        let mut answer = match effect.action {
            Action::Drop => return Next::Abort,
            Action::Hang => {
                hang(wire.socket());
                return Next::Abort;
            }
            Action::Respond(status, body) => Answer::json(status, body),
            Action::None => self.answer(request),
        };
        answer = self.dated(answer);
        let replaced =
            |name: &str| effect.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
        answer.headers.retain(|(name, _)| !replaced(name));
        answer.headers.extend(effect.headers.iter().cloned());

        shared.state().log.answered(entry, answer.status);
        shared.log_changed();
        let manner = Manner {
            gzip: management && shared.gzip && request.accepts_gzip(),
            chunked: effect.chunked,
            cut: effect.cut,
            head_only: request.method == "HEAD",
            close: !request.keep_alive,
        };
        match http::send(wire, answer, &manner) {
            Err(_) => {
                if effect.stalls {
                    hang(wire.socket());
                }
                Next::Abort
            }
            Ok(()) if effect.cut.is_some() => Next::Abort,
            Ok(()) if manner.close => Next::End,
            Ok(()) => Next::Request,
        }
    }

    /// Enters the request in the log, and finds the fault that takes it.
    fn receive(&self, request: &Incoming) -> (usize, Option<Effect>) {
        let mut state = self.shared.state();
        let target = request.target.as_str();
        let (mut call, mut tenant) = (None, String::new());
        let (mut content_type, mut content_id) = (None, None);
        if self.host == Host::Login {
            let path = target.split_once('?').map_or(target, |(path, _)| path);
            if let Some(name) = login::route(path) {
                call = Some(Call::Token);
                name.clone_into(&mut tenant);
            }
        } else if let Some(route) = management::route(target) {
            call = Some(route.call);
            route.tenant.clone_into(&mut tenant);
            content_type = parameter(route.query, "contentType");
            content_id = route.content_id;
        }
        if let Some(known) = state.tenant(&tenant) {
            if let Some((name, _)) = content_id.and_then(|id| known.blob(id)) {
                content_type = Some(name.to_owned());
            }
            tenant = known.guid.clone();
        }
        let subject =
            Subject { call, tenant: &tenant, content_type: content_type.as_deref(), content_id };
        let effect = fault::take(&mut state.faults, &subject);
        let entry = state.log.push(Request {
            call,
            method: request.method.clone(),
            target: target.to_owned(),
            headers: request.headers.clone(),
            body: request.body.clone(),
            tenant,
            content_type,
            status: 0,
            connection: self.number,
            at: self.shared.clock.now(),
        });
        drop(state);
        self.shared.log_changed();
        (entry, effect)
    }

    fn answer(&self, request: &Incoming) -> Answer {
        let shared: &Shared = &self.shared;
        let target = request.target.as_str();
        match self.host {
            Host::Login => match login::route(target.split('?').next().unwrap_or_default()) {
                Some(tenant) => login::answer(shared, tenant, request),
                None => login::not_found(),
            },
            Host::Management => match management::route(target) {
                Some(route) => management::answer(&self.shared, &route, request),
                None => management::not_found(shared, target),
            },
        }
    }
}
