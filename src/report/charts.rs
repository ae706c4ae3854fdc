//! Line charts as SVG text, to stand inside a page.

use plotters::prelude::*;

use crate::{Error, Result};

/// About the width of its column on the page, so that letters keep their size.
const SIZE: (u32, u32) = (500, 220);
/// More points than pixels show nothing more.
const MAX_POINTS: usize = 400;
const TEXT: RGBColor = RGBColor(90, 98, 110);
const GRID: RGBColor = RGBColor(228, 231, 236);

/// One line of a chart.
#[derive(Clone, Debug)]
pub struct Series {
    /// What the page's legend calls it.
    pub name: &'static str,
    /// Its colour, as in the page's style sheet.
    pub colour: RGBColor,
    /// x and y; points that are not finite are left out.
    pub points: Vec<(f64, f64)>,
    /// How it is drawn.
    pub style: Style,
}

/// How a line is drawn.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Style {
    /// As it is.
    Plain,
    /// A smoothed line over the faint values: for what is noisy.
    Smoothed,
    /// With a mark on every point: for few points.
    Marked,
}

impl Series {
    /// The colour as CSS has it.
    pub fn css(&self) -> String {
        let RGBColor(r, g, b) = self.colour;
        format!("#{r:02x}{g:02x}{b:02x}")
    }
}

/// A chart of these lines over the steps; none when no line has two points.
pub fn lines(y_name: &str, series: &[Series]) -> Result<Option<String>> {
    let series: Vec<Series> = series.iter().map(prepared).filter(|s| !s.points.is_empty()).collect();
    if series.iter().all(|s| s.points.len() < 2) {
        return Ok(None);
    }
    let points = || series.iter().flat_map(|s| &s.points);
    let last_step = points().map(|p| p.0).fold(1.0, f64::max);
    let first_step = points().map(|p| p.0).fold(last_step, f64::min);
    let top = points().map(|p| p.1).fold(0.0, f64::max);
    let top = if top > 0.0 { 1.05 * top } else { 1.0 };
    let mut svg = String::new();
    draw(&mut svg, y_name, &series, first_step..last_step, top)
        .map_err(|e| Error::Input(format!("the chart of {y_name} cannot be drawn: {e}")))?;
    Ok(Some(svg))
}

type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

fn draw(svg: &mut String, y_name: &str, series: &[Series], steps: std::ops::Range<f64>, top: f64) -> Drawn {
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let mut chart = ChartBuilder::on(&area)
        .margin(8)
        .margin_right(16)
        .x_label_area_size(34)
        .y_label_area_size(58)
        .build_cartesian_2d(steps, 0.0..top)?;
    let font = ("sans-serif", 12).into_font().color(&TEXT);
    let digits = if top < 0.1 { None } else { Some(if top < 2.0 { 2 } else { usize::from(top < 20.0) }) };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .label_style(font.clone())
        .axis_desc_style(font)
        .x_labels(6)
        .y_labels(5)
        .x_desc("step")
        .y_desc(y_name)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| match digits {
            Some(digits) => format!("{y:.digits$}"),
            None => format!("{y:.0e}"),
        })
        .draw()?;
    for s in series {
        let (points, line) = (s.points.clone(), s.colour.stroke_width(2));
        match s.style {
            Style::Plain => drop(chart.draw_series(LineSeries::new(points, line))?),
            Style::Smoothed => {
                let smoothed = smooth(&points);
                chart.draw_series(LineSeries::new(points, s.colour.mix(0.25).stroke_width(1)))?;
                chart.draw_series(LineSeries::new(smoothed, line))?;
            }
            Style::Marked => {
                chart.draw_series(points.iter().map(|&p| Circle::new(p, 3, s.colour.filled())))?;
                chart.draw_series(LineSeries::new(points, line))?;
            }
        }
    }
    area.present()?;
    Ok(())
}

/// Without what is not finite, and no more points than can be seen: the mean of each stretch.
fn prepared(series: &Series) -> Series {
    let finite: Vec<(f64, f64)> =
        series.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
    let stretch = finite.len().div_ceil(MAX_POINTS).max(1);
    let mean = |points: &[(f64, f64)]| {
        let n = points.len() as f64;
        (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n)
    };
    Series { points: finite.chunks(stretch).map(mean).collect(), ..series.clone() }
}

/// The mean over a window of about a twentieth of the line, centred, so that nothing is shifted.
fn smooth(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let reach = points.len() / 40;
    let window = |i: usize| {
        // As far to one side as to the other, also near the ends.
        let reach = reach.min(i).min(points.len() - 1 - i);
        let near = &points[i - reach..=i + reach];
        (points[i].0, near.iter().map(|p| p.1).sum::<f64>() / near.len() as f64)
    };
    (0..points.len()).map(window).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(points: Vec<(f64, f64)>) -> Series {
        Series { name: "loss", colour: RGBColor(1, 2, 255), points, style: Style::Smoothed }
    }

    #[test]
    fn a_chart_needs_two_points_and_passes_over_what_is_not_finite() {
        assert_eq!(lines("loss", &[]).unwrap(), None);
        assert_eq!(lines("loss", &[series(vec![(1.0, 2.0), (2.0, f64::NAN)])]).unwrap(), None);
        let svg = lines("loss", &[series(vec![(1.0, 2.0), (2.0, f64::NAN), (3.0, 0.0)])]).unwrap().unwrap();
        assert!(svg.starts_with("<svg") && !svg.contains("NaN") && svg.contains("<polyline"), "{svg}");
        assert_eq!(series(vec![]).css(), "#0102ff");
    }

    #[test]
    fn many_points_become_means_and_a_line_stays_a_line() {
        let line: Vec<(f64, f64)> = (0..1200).map(|i| (i as f64, 2.0 * i as f64)).collect();
        let thin = prepared(&series(line)).points;
        assert_eq!(thin.len(), MAX_POINTS);
        assert_eq!(thin[0], (1.0, 2.0));
        assert!(smooth(&thin) == thin);
    }
}
