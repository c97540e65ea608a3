//! Hundreds of tenants in one configuration, some of them dead.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use office365_simulator::{Blob, Call, Fault, Request, Simulator, Tenant};
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, connect, getsockname, listen, socket_with,
};
use time::Duration;

use crate::harness::{CLIENT, PATIENCE, SECRET, Site, TENANT, record, write_file};
use crate::host::{Options, Running};

const GENERAL: &str = "Audit.General";

fn guid(n: usize) -> String {
    format!("d1b2c3d4-0000-4000-8000-{n:012}")
}

/// A site with so many tenants besides its own, each with a secret of its own.
fn site(tenants: usize) -> Site {
    let mut builder = Simulator::builder();
    for n in 0..tenants {
        builder = builder.tenant(Tenant::new(&guid(n), CLIENT, &secret(n)));
    }
    Site::built(builder)
}

fn secret(n: usize) -> String {
    format!("secret of tenant {n}")
}

/// Configures the tenants; the secret of every other one is in a file.
fn configure(site: &Site, tenants: usize, options: &str, login: impl Fn(usize) -> Option<String>) {
    let own = site.simulator.login_url();
    let auth = |n: usize| {
        let credential = if n.is_multiple_of(2) {
            format!("<client_secret>{}</client_secret>", secret(n))
        } else {
            let path = format!("etc/{n}.secret");
            write_file(&site.path(&path), secret(n).as_bytes(), 0o640);
            format!("<client_secret_path>{path}</client_secret_path>")
        };
        let auth = site.api_auth_with(&guid(n), CLIENT, &credential);
        match login(n) {
            Some(other) => auth.replace(&own, &other),
            None => auth,
        }
    };
    let options = format!("<only_future_events>no</only_future_events>{options}");
    site.configure_with(&options, &(0..tenants).map(auth).collect::<String>(), &[GENERAL]);
}

fn publish(site: &Site, tenants: impl Iterator<Item = usize>, round: &str) -> BTreeSet<String> {
    let created = site.now() - Duration::minutes(5);
    let publish = |n: usize| {
        let id = format!("{round} {n}");
        site.simulator.publish(&guid(n), GENERAL, Blob::new(created, &[record(&id)]));
        id
    };
    tenants.map(publish).collect()
}

/// What a run that is ended brings, and the next one, in which nobody hangs: the last answer may just
/// have been on its way.
fn terminated(site: &Site, running: Running<'_>) -> Vec<String> {
    running.terminate();
    let run = running.end();
    assert_eq!(run.code, Some(0));
    site.simulator.clear_faults();
    let mut ids = run.ids();
    ids.extend(site.poll().ids());
    ids.sort();
    ids
}

/// Waits until so many blobs have been fetched.
fn wait_for_fetched(site: &Site, many: usize) {
    let is_fetched = |r: &&Request| r.call == Some(Call::Fetch) && r.status == 200;
    let all = site
        .simulator
        .wait_for(PATIENCE, |requests| requests.iter().filter(is_fetched).count() == many);
    assert!(all, "{}", site.log());
}

/// An address where connections are never taken: the queue of those that wait is full.
struct Blackhole {
    address: SocketAddr,
    _sockets: Vec<OwnedFd>,
}

impl Blackhole {
    fn dig() -> Self {
        let new =
            |flags| socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
        let listener = new(SocketFlags::CLOEXEC);
        bind(&listener, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        listen(&listener, 0).unwrap();
        let address = SocketAddr::try_from(getsockname(&listener).unwrap()).unwrap();
        let mut sockets = vec![listener];
        // One fills the queue, and the others don't wait until it has room.
        for _ in 0..4 {
            let waiting = new(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK);
            let _ = connect(&waiting, &address);
            sockets.push(waiting);
        }
        Self { address, _sockets: sockets }
    }
}

#[test]
fn the_dead_among_five_hundred_cost_their_timeout_once_and_nobody_else_anything() {
    let site = site(500);
    let blackhole = Blackhole::dig();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // Ten: at four the login hangs, for three nobody is there, for three connections hang.
    let is_dead = |n: usize| n % 50 == 7;
    let hangs = [7, 157, 307, 457];
    for n in hangs {
        site.simulator.fault(Fault::on(Call::Token).tenant(&guid(n)).always().hang());
    }
    configure(&site, 500, "", |n| match n {
        57 | 207 | 357 => Some(format!("http://{nobody}")),
        107 | 257 | 407 => Some(format!("http://{}", blackhole.address)),
        _ => None,
    });
    for round in ["first", "second"] {
        let expected = publish(&site, (0..500).filter(|n| !is_dead(*n)), round);
        site.clear_log();
        let run = site.poll();
        assert_eq!(run.code, Some(1));
        assert_eq!(run.ids().into_iter().collect::<BTreeSet<_>>(), expected, "{round}");
        let requests = site.requests(Call::Token);
        for n in hangs {
            assert_eq!(requests.iter().filter(|request| request.tenant == guid(n)).count(), 1);
        }
        site.simulator.clear_requests();
        let log = site.log();
        for (n, why) in [
            (7, "127.0.0.1 took the request, but didn't answer in time: ".to_owned()),
            (57, format!("{nobody} refuses the connection: ")),
            (107, format!("no connection to {} within 10 s: ", blackhole.address)),
        ] {
            let why = format!("ERROR: {}: sign-in failed: {why}", guid(n));
            assert!(log.contains(&why), "{why}\n{log}");
        }
        assert_eq!(log.matches(": sign-in failed: ").count(), 10, "{log}");
    }
}

#[test]
fn those_who_failed_the_last_time_hold_up_no_worker_for_the_rest() {
    // More of them than there are connections, and all hang.
    let site = site(60);
    let is_dead = |n: usize| n < 20;
    for n in (0..60).filter(|n| is_dead(*n)) {
        site.simulator.fault(Fault::on(Call::Token).tenant(&guid(n)).times(1).respond(403, "no"));
        site.simulator.fault(Fault::on(Call::Token).tenant(&guid(n)).always().hang());
    }
    configure(&site, 60, "", |_| None);
    assert_eq!(site.poll().code, Some(1));
    let expected = publish(&site, (0..60).filter(|n| !is_dead(*n)), "");
    site.simulator.clear_requests();
    let running = site.host().begin(&site.command(), Options::default());
    wait_for_fetched(&site, 40);
    // None of the dead has even had its time: they hang still.
    let hanging = site.requests(Call::Token);
    assert!(hanging.iter().all(|request| request.status == 0), "{hanging:?}");
    // As long as the rest had work, which it had for sure when the last eight fetches were to come: a
    // quarter of eight connections.
    let requests = site.simulator.requests();
    let is_fetch = |(_, request): &(usize, &Request)| request.call == Some(Call::Fetch);
    let (late, _) = requests.iter().enumerate().filter(is_fetch).nth(31).unwrap();
    let before = requests[..late].iter().filter(|request| request.call == Some(Call::Token));
    assert!(before.count() <= 2, "{hanging:?}");
    assert_eq!(terminated(&site, running), expected.into_iter().collect::<Vec<_>>());
}

#[test]
fn tenants_whose_api_is_silent_hold_the_others_up_for_moments_only() {
    // More of them than there are connections, before all others, and in their first run.
    let site = site(22);
    for n in 0..12 {
        for call in [Call::List, Call::Content] {
            site.simulator.fault(Fault::on(call).tenant(&guid(n)).always().hang());
        }
    }
    configure(&site, 22, "", |_| None);
    let expected = publish(&site, 12..22, "");
    let running = site.host().begin(&site.command(), Options::default());
    wait_for_fetched(&site, 10);
    assert_eq!(terminated(&site, running), expected.into_iter().collect::<Vec<_>>());
}

#[test]
fn a_dead_proxy_costs_one_timeout_and_not_one_for_each_tenant() {
    let site = site(50);
    let blackhole = Blackhole::dig();
    // One after the other they would take a minute.
    let options =
        format!("<proxy>http://{}</proxy><run_timeout>30s</run_timeout>", blackhole.address);
    configure(&site, 50, &options, |_| None);
    assert_eq!(site.poll().code, Some(1));
    let log = site.log();
    let why = format!(
        "sign-in failed: no connection to {} through the proxy {} within 10 s: is the proxy right, \
         is it up, and may it connect there?\n",
        site.simulator.addresses()[0],
        blackhole.address
    );
    assert_eq!(log.matches(&why).count(), 50, "{log}");
    assert!(!log.contains("run_timeout"), "{log}");
}

#[test]
fn every_fault_on_the_way_has_words_of_its_own_and_is_tried_again_where_that_helps() {
    let dropped = Fault::on(Call::Token).always().drop_connection();
    let cases: [(Option<&str>, Option<Fault>, &str, usize); 3] = [
        (
            Some("http://no..host.localhost"),
            None,
            "the name no..host.localhost can't be resolved: check DNS, or set proxy",
            0,
        ),
        (
            None,
            Some(dropped),
            "was cut before an answer came (Peer disconnected): if this lasts, look for a firewall \
             or proxy that cuts it",
            5,
        ),
        (
            None,
            Some(Fault::on(Call::Token).always().cut(20)),
            "the answer of 127.0.0.1 broke off: Peer disconnected",
            5,
        ),
    ];
    for (login, fault, message, tries) in cases {
        let site = Site::new();
        if let Some(login) = login {
            let auth = site.api_auth(TENANT, CLIENT, SECRET);
            let auth = auth.replace(&site.simulator.login_url(), &login.replace("http:", "https:"));
            site.configure_with("", &auth, &[GENERAL]);
        }
        if let Some(fault) = fault {
            site.simulator.fault(fault);
        }
        assert_eq!(site.poll().code, Some(1));
        assert!(site.log().contains(message), "{message}\n{}", site.log());
        assert_eq!(site.requests(Call::Token).len(), tries);
    }
}
