//! Joins two network namespaces by a path with delay, loss, a rate and a queue, until it is ended.
//!
//! It owns two namespaces, a TUN device in each, and the two directions between them (`wtfs_testkit::path` decides
//! what becomes of each packet). One line of JSON tells the names and addresses once all is up; each line that comes
//! on standard input is answered with one line of counters. Needs root, and `ip` of iproute2.
//!
//! Invariant: nothing stays. The devices go with this process; the namespaces are taken away by a second process that
//! waits for the end of this one, so that no signal and no crash, SIGKILL included, leaves them behind.
//! It ends itself when the thread that started it ends (that is what the kernel watches, not the process).

use std::{
    collections::VecDeque,
    env,
    io::{self, BufRead as _, Write as _},
    process,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Signal, set_parent_process_death_signal};
use wtfs_testkit::path::{Direction, Profile};

mod pump;
mod spaces;
mod tun;

const USAGE: &str = "\
Usage: path-emulator [OPTIONS]

  --delay-ms <MS>        one-way delay in both directions [0]
  --loss <SHARE>         packets lost, 0 to 1, in both directions, each direction for itself [0]
  --loss-there <SHARE>   the same from the first namespace to the second only
  --loss-back <SHARE>    the same from the second to the first only
  --rate <BYTES>         bytes a second of each direction's bottleneck [none]
  --queue <BYTES>        bytes that may wait for the bottleneck [1048576]
  --seed <NUMBER>        fixes which packets are lost [1]
  --hosts <COUNT>        addresses of each end, at most 200 [1]
  --mtu <BYTES>          of both devices [1500]
  --congestion <NAME>    TCP congestion control of both namespaces [the kernel's]

Prints {\"ends\":[{\"namespace\":..,\"addresses\":[..]},..]}; run something there by `nsenter --net=/run/netns/NAME`.
Ends on a signal, or with the process that started it.";

/// What was asked for.
struct Asked {
    profile: Profile,
    loss_there: Option<f64>,
    loss_back: Option<f64>,
    seed: u64,
    spaces: spaces::Plan,
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{name} {value}: not a number that fits"))
}

fn share(name: &str, value: &str) -> Result<f64, String> {
    let share: f64 = number(name, value)?;
    (0.0..=1.0).contains(&share).then_some(share).ok_or_else(|| format!("{name} {value}: not from 0 to 1"))
}

fn parse(mut words: VecDeque<String>) -> Result<Asked, String> {
    let mut asked = Asked {
        profile: Profile::default(),
        loss_there: None,
        loss_back: None,
        seed: 1,
        spaces: spaces::Plan { hosts: 1, mtu: 1500, congestion: None },
    };
    while let Some(name) = words.pop_front() {
        let value = words.pop_front().ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--delay-ms" => {
                let ms: f64 = number(&name, &value)?;
                asked.profile.delay =
                    Duration::try_from_secs_f64(ms / 1e3).map_err(|e| format!("{name}: {e}"))?;
            }
            "--loss" => asked.profile.loss = share(&name, &value)?,
            "--loss-there" => asked.loss_there = Some(share(&name, &value)?),
            "--loss-back" => asked.loss_back = Some(share(&name, &value)?),
            "--rate" => asked.profile.rate_bytes = Some(number::<std::num::NonZeroU64>(&name, &value)?.get()),
            "--queue" => asked.profile.queue_bytes = number(&name, &value)?,
            "--seed" => asked.seed = number(&name, &value)?,
            "--hosts" => asked.spaces.hosts = number::<u8>(&name, &value)?.clamp(1, 200),
            "--mtu" => asked.spaces.mtu = number::<u16>(&name, &value)?.max(576),
            "--congestion" => asked.spaces.congestion = Some(value),
            _ => return Err(format!("no such option: {name}")),
        }
    }
    Ok(asked)
}

fn run(asked: Asked) -> io::Result<()> {
    // Said before anything is made: from here on a death of the starter ends this process, and that cleans up.
    set_parent_process_death_signal(Some(Signal::TERM))?;
    let ends = spaces::Ends::make(&asked.spaces)?;
    let (near, far) = (Arc::new(ends.near), Arc::new(ends.far));
    let start = Instant::now();
    let direction = |loss: Option<f64>, seed: u64| {
        let profile = Profile { loss: loss.unwrap_or(asked.profile.loss), ..asked.profile.clone() };
        Direction::new(profile, seed)
    };
    // Two seeds: with one the two directions would lose the same packets.
    let there = pump::Pump::new(direction(asked.loss_there, asked.seed), near.clone(), far.clone(), start);
    let back = pump::Pump::new(direction(asked.loss_back, !asked.seed), far, near, start);
    let (counted_there, counted_back) = (there.counters(), back.counters());
    let (there, back) = (thread::spawn(move || there.run()), thread::spawn(move || back.run()));
    println!("{}", ends.described);
    io::stdout().flush()?;
    for line in io::stdin().lock().lines() {
        let _asked = line?;
        println!("{{\"there\":{},\"back\":{}}}", counted_there.as_json(), counted_back.as_json());
        io::stdout().flush()?;
    }
    // The end of standard input says nothing: it may have been /dev/null from the beginning.
    for thread in [there, back] {
        thread.join().map_err(|_| io::Error::other("a direction panicked"))??;
    }
    Ok(())
}

fn main() {
    let words: VecDeque<String> = env::args().skip(1).collect();
    if words.front().is_some_and(|word| word == spaces::KEEPER) {
        spaces::keep(words.into_iter().skip(1));
        return;
    }
    if words.iter().any(|word| word == "--help" || word == "-h") {
        println!("{USAGE}");
        return;
    }
    let asked = parse(words).unwrap_or_else(|wrong| {
        eprintln!("path-emulator: {wrong}\n\n{USAGE}");
        process::exit(2);
    });
    if let Err(error) = run(asked) {
        eprintln!("path-emulator: {error}");
        process::exit(1);
    }
}
