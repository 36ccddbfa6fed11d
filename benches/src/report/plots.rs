//! Pictures of a run, as SVG: a line a contender over sizes or connections, or bars where there is only one of them.
//!
//! Each line is labelled at its end, with its last value. Colours are those of Okabe and Ito, which people who see
//! colours differently can tell apart; SHMBC's three ways of waiting share one, limits are grey and dashed.

use std::error::Error;
use std::ops::Range;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::people::{amount, bytes, title};
use super::tables::tables;
use crate::names::{Contender, Placement};
use crate::plan::{Plan, Site};
use crate::results::Results;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn Error>>;

const SIZE: (u32, u32) = (960, 540);
/// Room for the labels at the ends of the lines.
const LABELS: u32 = 235;
/// Least distance of two labels.
const LINE: i32 = 17;
const GREY: RGBColor = RGBColor(110, 110, 110);

/// The values of one contender: x and median.
struct Series {
    contender: Contender,
    points: Vec<(f64, f64)>,
}

impl Series {
    fn last(&self) -> (f64, f64) {
        self.points.last().copied().unwrap_or_default()
    }
}

/// Draws every table of the run into the directory and returns the names of the files.
pub(super) fn draw(dir: &Path, plan: &Plan, results: &Results, note: &str) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    // Loads are not points of an axis: a picture each.
    let apart = |columns: Vec<Site>| match columns.first() {
        Some(Site { load: Some(_), .. }) => columns.into_iter().map(|site| vec![site]).collect(),
        _ => vec![columns],
    };
    for columns in tables(plan).into_iter().flat_map(apart) {
        let Some(&first) = columns.first() else { continue };
        let series = series(plan, results, &columns);
        // Aspects have units of their own: a table says more.
        if series.is_empty() || first.aspect.is_some() {
            continue;
        }
        let runtime = if plan.runtimes.len() > 1 { format!("-{}", first.runtime) } else { String::new() };
        let load = first.load.map_or_else(String::new, |load| format!("-{load}"));
        let name = format!("{}-{}{runtime}{load}.svg", first.measure, first.placement);
        let path = dir.join(&name);
        let area = SVGBackend::new(&path, SIZE).into_drawing_area();
        let drawn = picture(&area, &first, &series, columns.len(), note);
        drawn.map_err(|e| format!("{}: {e}", path.display()))?;
        names.push(name);
    }
    Ok(names)
}

fn series(plan: &Plan, results: &Results, columns: &[Site]) -> Vec<Series> {
    let Some(first) = columns.first() else { return vec![] };
    let by_conns = columns.iter().any(|site| site.conns != first.conns);
    let x = |site: &Site| if by_conns { f64::from(site.conns.unwrap_or(1)) } else { site.size as f64 };
    let series = plan.contenders(first).into_iter().map(|contender| {
        let points = columns.iter().filter_map(|site| Some((x(site), results.value(site.key(contender))?)));
        Series { contender, points: points.collect() }
    });
    series.filter(|series| !series.points.is_empty()).collect()
}

fn picture(area: &Area<'_>, site: &Site, series: &[Series], columns: usize, note: &str) -> Drawn {
    area.fill(&WHITE)?;
    let better = if site.measure.smaller_is_better() { "lower is better" } else { "higher is better" };
    let load = site.load.map_or_else(String::new, |load| format!(" ({load})"));
    let head = format!("{}{load}, {}", title(site.measure), place(site.placement));
    area.draw(&Text::new(head, (24, 18), ("sans-serif", 27)))?;
    area.draw(&Text::new(format!("medians over all rounds; {better}"), (24, 46), small()))?;
    area.draw(&Text::new(note.to_owned(), (24, SIZE.1 as i32 - 20), small()))?;
    let body = area.margin(66, 30, 20, 20);
    if columns > 1 {
        lines(&body, site, series)?;
    } else {
        bars(&body, site, series)?;
    }
    area.present()?;
    Ok(())
}

fn lines(area: &Area<'_>, site: &Site, series: &[Series]) -> Drawn {
    let xs: Vec<f64> = series.iter().flat_map(|series| series.points.iter().map(|point| point.0)).collect();
    let ys: Vec<f64> = series.iter().flat_map(|series| series.points.iter().map(|point| point.1)).collect();
    let (xs, ys) = (span(&xs), span(&ys));
    let by_size = site.conns.is_none();
    let ys = ys.start * 0.8..ys.end * 1.25;
    let mut chart =
        ChartBuilder::on(area).margin_right(LABELS).x_label_area_size(44).y_label_area_size(84).build_cartesian_2d(
            (xs.start..xs.end).log_scale().with_key_points(x_marks(series)),
            ys.clone().log_scale().with_key_points(marks(&ys)),
        )?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GREY.mix(0.22))
        .axis_style(GREY)
        .label_style(small())
        .x_desc(if by_size { "bytes of each message" } else { "connections" })
        .x_label_formatter(&|x| if by_size { bytes(x.round() as usize) } else { format!("{x:.0}") })
        .y_label_formatter(&|y| amount(site.measure, site.aspect, *y))
        .draw()?;
    let mut labels: Vec<(i32, &Series)> = Vec::new();
    for series in series {
        let (style, points) = (style(series.contender), series.points.iter().copied());
        if series.contender.is_limit() {
            chart.draw_series(DashedLineSeries::new(points, 6, 5, style))?;
        } else {
            chart.draw_series(LineSeries::new(points.clone(), style))?;
            let radius = if series.contender == Contender::ShmbcAdaptive { 4 } else { 3 };
            chart.draw_series(points.map(|point| Circle::new(point, radius, style.color.filled())))?;
        }
        labels.push((chart.backend_coord(&series.last()).1, series));
    }
    labels.sort_by_key(|label| label.0);
    spread(&mut labels);
    let root = area.strip_coord_spec();
    let (corner, _) = area.get_base_pixel();
    for (y, series) in labels {
        let (x, value) = series.last();
        let (end, real) = chart.backend_coord(&(x, value));
        let (from, to) =
            ((end + 6 - corner, real - area.get_base_pixel().1), (end + 22 - corner, y - area.get_base_pixel().1));
        root.draw(&PathElement::new(vec![from, to], style(series.contender).color.mix(0.5).stroke_width(1)))?;
        let limit = if series.contender.is_limit() { " (limit)" } else { "" };
        let text = format!("{}{limit} {}", series.contender, amount(site.measure, site.aspect, value));
        root.draw(&Text::new(text, (to.0 + 4, to.1), label(series.contender)))?;
    }
    Ok(())
}

/// Moves labels that are too close to each other apart, up and down alike, and keeps them in the picture.
fn spread<T>(labels: &mut [(i32, T)]) {
    let (top, bottom) = (76, SIZE.1 as i32 - 50);
    for _ in 0..200 {
        for at in 1..labels.len() {
            let missing = LINE - (labels[at].0 - labels[at - 1].0);
            if missing > 0 {
                labels[at - 1].0 = (labels[at - 1].0 - (missing + 1) / 2).max(top);
                labels[at].0 = (labels[at].0 + (missing + 1) / 2).min(bottom);
            }
        }
    }
    // What rounding has left.
    for at in 1..labels.len() {
        labels[at].0 = labels[at].0.max(labels[at - 1].0 + LINE);
    }
}

/// Horizontal bars from zero, the figure behind each.
fn bars(area: &Area<'_>, site: &Site, series: &[Series]) -> Drawn {
    let most = series.iter().map(|series| series.last().1).fold(0.0, f64::max);
    let (width, height) = area.dim_in_pixel();
    let (left, room) = (140, f64::from(width) - 140.0 - 120.0);
    let step = (height as i32 - 20) / series.len() as i32;
    for (row, series) in series.iter().enumerate() {
        let (value, top) = (series.last().1, 10 + row as i32 * step.min(48));
        let middle = top + step.min(48) / 2;
        let end = left + (value / most * room) as i32;
        let bar = [(left, top + 4), (end, top + step.min(48) - 4)];
        area.draw(&Rectangle::new(bar, style(series.contender).color.filled()))?;
        let name = label(series.contender).pos(Pos::new(HPos::Right, VPos::Center));
        area.draw(&Text::new(series.contender.to_string(), (left - 8, middle), name))?;
        area.draw(&Text::new(amount(site.measure, site.aspect, value), (end + 8, middle), label(series.contender)))?;
    }
    Ok(())
}

fn small() -> TextStyle<'static> {
    ("sans-serif", 17).into_font().color(&GREY)
}

fn label(contender: Contender) -> TextStyle<'static> {
    let weight = if contender == Contender::ShmbcAdaptive { FontStyle::Bold } else { FontStyle::Normal };
    let font = FontDesc::new(FontFamily::SansSerif, 18.0, weight);
    font.color(&style(contender).color).pos(Pos::new(HPos::Left, VPos::Center))
}

const fn style(contender: Contender) -> ShapeStyle {
    let (red, green, blue, width) = match contender {
        Contender::ShmbcAdaptive => (0, 114, 178, 4),
        Contender::ShmbcOff | Contender::ShmbcFixed => (86, 180, 233, 2),
        Contender::Tcp => (204, 121, 167, 2),
        Contender::Bridge => (213, 94, 0, 2),
        Contender::Docker => (140, 60, 0, 2),
        Contender::Uds => (230, 159, 0, 2),
        Contender::Shmipc => (0, 158, 115, 2),
        Contender::Iceoryx2Busy => (30, 30, 30, 2),
        Contender::Iceoryx2Event => (120, 94, 60, 2),
        Contender::Ring | Contender::Memcpy | Contender::Memcpy2 => (150, 150, 150, 2),
    };
    ShapeStyle { color: RGBAColor(red, green, blue, 1.0), filled: false, stroke_width: width }
}

const fn place(placement: Placement) -> &'static str {
    match placement {
        Placement::TwoCores => "each end on a core of its own",
        Placement::OneCore => "both ends on one core",
        Placement::Unpinned => "not pinned",
    }
}

/// From the least to the most, never empty.
fn span(values: &[f64]) -> Range<f64> {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min).max(f64::MIN_POSITIVE);
    let most = values.iter().copied().fold(0.0, f64::max);
    if most > least { least..most } else { least..least * 2.0 }
}

fn x_marks(series: &[Series]) -> Vec<f64> {
    let mut marks: Vec<f64> = series.iter().flat_map(|series| series.points.iter().map(|point| point.0)).collect();
    marks.sort_by(f64::total_cmp);
    marks.dedup();
    marks
}

/// 1, 2, 5, 10, ... within a range; powers of ten only where that are many.
fn marks(range: &Range<f64>) -> Vec<f64> {
    let (low, high) = (range.start.log10().floor() as i32, range.end.log10().ceil() as i32);
    let steps: &[f64] = if high - low > 3 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let all = (low..=high).flat_map(|power| steps.iter().map(move |step| step * 10_f64.powi(power)));
    all.filter(|mark| range.contains(mark)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Measure;
    use crate::results::Key;
    use crate::stats::Cell;

    #[test]
    fn marks_when_the_range_is_wide_are_powers_of_ten() {
        assert_eq!(marks(&(1.0..6.0)), [1.0, 2.0, 5.0]);
        assert_eq!(marks(&(1.0..100_001.0)).len(), 6);
    }

    #[test]
    fn labels_when_too_close_are_moved_apart_and_stay_in_their_order() {
        let mut labels: Vec<(i32, usize)> = (0..13).map(|n| (80 + n as i32 % 2, n)).collect();
        spread(&mut labels);
        assert!(labels.is_sorted_by(|a, b| b.0 - a.0 >= LINE), "{labels:?}");
        assert!(labels[0].0 >= 76 && labels[12].0 < SIZE.1 as i32);
    }

    #[test]
    fn results_when_drawn_are_one_picture_a_table_with_every_contender_named() {
        let options = ["--measures", "rtt,oneshot", "--placements", "two-cores", "--sizes", "64,1K"];
        let plan = Plan::parsed(&options);
        let mut results = Results::default();
        for (contender, ns) in [(Contender::ShmbcAdaptive, 400.0), (Contender::Uds, 40_000.0)] {
            for size in [64, 1024] {
                let key = Key::new(Measure::Rtt, Placement::TwoCores, size, contender);
                results.cells.insert(key, Cell { rounds: vec![vec![ns]], ..Cell::default() });
            }
            let key = Key::new(Measure::Oneshot, Placement::TwoCores, 64, contender);
            results.cells.insert(key, Cell { rounds: vec![vec![ns]], ..Cell::default() });
        }
        let dir = tempfile::tempdir().expect("a directory");
        let names = draw(dir.path(), &plan, &results, "a machine").expect("drawn");
        assert_eq!(names, ["rtt-two-cores.svg", "oneshot-two-cores.svg"]);
        for name in names {
            let svg = std::fs::read_to_string(dir.path().join(name)).expect("written");
            assert!(svg.contains("shmbc-adaptive") && svg.contains("uds") && svg.contains("a machine"));
        }
    }
}
