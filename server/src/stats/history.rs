//! Rates over time: pure, told the time and the counters.
//!
//! Owns the window that rates of now are taken over, and a ring of points for the chart.
//!
//! Invariant: neither holds more than a fixed number of entries.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;

/// Distance of the chart's points.
pub(crate) const STEP: Duration = Duration::from_secs(5);

/// Points that are kept: an hour.
const POINTS_MAX: usize = 720;

/// Looks that rates are taken over, and no fewer seconds than this between the first and the last.
const LOOKS_MAX: usize = 16;
const WINDOW: Duration = Duration::from_secs(4);

/// What the chart shows, in the order of the values. The first [`COUNTERS`] are counters, whose rates a second are shown;
/// the others are shown as they are.
pub(crate) const SERIES: [&str; 9] = [
    "announces_http",
    "announces_udp",
    "announces_websocket",
    "web_seed_bytes",
    "upload_bytes",
    "download_bytes",
    "requests",
    "peers",
    "swarms",
];

/// How many of [`SERIES`] are counters.
pub(crate) const COUNTERS: usize = 7;

/// One look at all of [`SERIES`].
pub(crate) type Look = [u64; SERIES.len()];

/// One point of the chart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Point {
    /// Seconds since 1970.
    pub(crate) unix_s: u64,
    /// In the order of [`SERIES`].
    pub(crate) values: [f32; SERIES.len()],
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct History {
    looks: VecDeque<(Duration, Look)>,
    points: VecDeque<Point>,
    /// When the newest point was made, and the look then.
    marked: Option<(Duration, Look)>,
}

impl History {
    /// Takes a look in. `now` counts from any fixed moment.
    pub(crate) fn take(&mut self, now: Duration, unix_s: u64, look: Look) {
        self.looks.push_back((now, look));
        while self.looks.len() > LOOKS_MAX
            || self.looks.get(1).is_some_and(|(second, _)| now.saturating_sub(*second) >= WINDOW)
        {
            self.looks.pop_front();
        }
        let Some((marked, before)) = self.marked else {
            self.marked = Some((now, look));
            return;
        };
        if now.saturating_sub(marked) >= STEP {
            if self.points.len() == POINTS_MAX {
                self.points.pop_front();
            }
            self.points.push_back(Point { unix_s, values: between(marked, &before, now, &look) });
            self.marked = Some((now, look));
        }
    }

    /// The rates of now.
    pub(crate) fn now(&self) -> [f32; SERIES.len()] {
        match (self.looks.front(), self.looks.back()) {
            (Some((first, before)), Some((last, look))) => between(*first, before, *last, look),
            _ => [0.0; SERIES.len()],
        }
    }

    /// The points, oldest first.
    pub(crate) fn points(&self) -> impl Iterator<Item = &Point> + '_ {
        self.points.iter()
    }
}

#[expect(clippy::cast_precision_loss, reason = "for a chart")]
#[expect(clippy::cast_possible_truncation, reason = "for a chart")]
fn between(first: Duration, before: &Look, last: Duration, look: &Look) -> [f32; SERIES.len()] {
    let seconds = last.saturating_sub(first).as_secs_f64();
    let mut values = [0.0; SERIES.len()];
    for (at, value) in values.iter_mut().enumerate() {
        *value = if at >= COUNTERS {
            look[at] as f32
        } else if seconds > 0.0 {
            // A counter that shrank belongs to a torrent that was removed.
            let rate = look[at].saturating_sub(before[at]) as f64 / seconds;
            ((rate * 10.0).round() / 10.0) as f32
        } else {
            0.0
        };
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(counter: u64, gauge: u64) -> Look {
        let mut look = [0; SERIES.len()];
        look[0] = counter;
        look[COUNTERS] = gauge;
        look
    }

    #[test]
    fn a_point_is_the_rate_since_the_one_before() {
        let mut history = History::default();
        for second in 0..=10 {
            history.take(Duration::from_secs(second), 1000 + second, look(second * second, second));
        }
        let points: Vec<_> = history.points().map(|p| (p.unix_s, p.values[0], p.values[COUNTERS])).collect();
        assert_eq!(points, [(1005, 5.0, 5.0), (1010, 15.0, 10.0)]);
    }

    #[test]
    fn rates_of_now_are_over_a_few_seconds_however_often_one_looks() {
        let mut history = History::default();
        for tenth in 0..=200 {
            history.take(Duration::from_millis(500 * tenth), 0, look(tenth * 50, 0));
        }
        assert_eq!(history.now()[0], 100.0);
        let mut slow = History::default();
        slow.take(Duration::ZERO, 0, look(0, 0));
        assert_eq!(slow.now()[0], 0.0);
        slow.take(Duration::from_secs(60), 0, look(600, 0));
        assert_eq!(slow.now()[0], 10.0);
        slow.take(Duration::from_secs(120), 0, look(600, 0));
        assert_eq!(slow.now()[0], 0.0);
    }

    #[test]
    fn a_counter_that_shrinks_is_no_rate_and_the_ring_is_bounded() {
        let mut history = History::default();
        for step in 0..2000 {
            history.take(STEP * step, 0, look(u64::from(5000 - step), 0));
        }
        assert_eq!(history.points().count(), POINTS_MAX);
        assert!(history.points().all(|point| point.values[0] == 0.0));
        assert!(history.looks.len() <= LOOKS_MAX);
    }
}
