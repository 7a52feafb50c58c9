//! Charts of lines and bars as SVG and PNG, with a font of our own, so that they look alike on every host.

use std::fs;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};

use crate::BenchError;

const PIXELS: (u32, u32) = (960, 560);
/// Dark enough on white, apart for those who see red and green alike (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 86, 86),
    RGBColor(230, 159, 0),
];

/// What all bars of one x take of the distance between two.
const BARS_WIDTH: f64 = 0.8;

/// What a chart shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// Name of its files, without an ending.
    pub name: String,
    /// In one line what is to be seen.
    pub title: String,
    /// Along the bottom, with its unit.
    pub x: String,
    /// Up the side, with its unit.
    pub y: String,
    /// How it is drawn.
    pub form: Form,
    /// The lines.
    pub series: Vec<Series>,
}

/// How points become a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Lines from point to point.
    Lines,
    /// The same, where x doubles along the bottom instead of growing by steps of one size.
    Doubling,
    /// For each x, which is a small whole number, a bar of each series.
    Bars,
}

impl Form {
    /// Where an x stands along the bottom.
    fn place(self, x: f64) -> f64 {
        match self {
            Self::Lines | Self::Bars => x,
            Self::Doubling => x.max(1.0).log2(),
        }
    }

    /// What is written at a place along the bottom.
    fn label(self, place: f64) -> String {
        let is_whole = (place - place.round()).abs() < 1e-6;
        match self {
            Self::Lines => plain(place),
            Self::Doubling if is_whole && place >= 0.0 => format!("{}", place.exp2().round()),
            Self::Bars if is_whole && place > 0.0 => format!("{}", place.round()),
            Self::Doubling | Self::Bars => String::new(),
        }
    }

    /// From where to where the bottom reaches, if this is the largest x.
    fn reach(self, largest: f64) -> std::ops::Range<f64> {
        match self {
            Self::Lines => 0.0..1.05 * largest,
            Self::Doubling => -0.2..self.place(largest) + 0.2,
            Self::Bars => 0.4..largest + 0.6,
        }
    }
}

/// Without what computing leaves in the last digits.
fn plain(value: f64) -> String {
    format!("{}", (value * 1e6).round() / 1e6)
}

/// A line through points.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// In the legend.
    pub name: String,
    /// `(x, y)`, ascending in x.
    pub points: Vec<(f64, f64)>,
}

impl Chart {
    /// Writes `NAME.svg` and `NAME.png` to a folder, which is made if it is not there. A chart without points writes nothing.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), BenchError> {
        if self.series.iter().all(|s| s.points.is_empty()) {
            return Ok(());
        }
        fs::create_dir_all(folder).map_err(BenchError::file(folder))?;
        let fail = |cause: String| BenchError::Chart { what: self.name.clone(), cause };
        // It is there from the second chart on; both tell a font that is no font.
        register_font("sans-serif", FontStyle::Normal, dejavu::sans::regular())
            .map_err(|_| fail("its font cannot be read".into()))?;
        let svg = folder.join(format!("{}.svg", self.name));
        self.draw(&SVGBackend::new(&svg, PIXELS).into_drawing_area()).map_err(fail)?;
        let png = folder.join(format!("{}.png", self.name));
        self.draw(&BitMapBackend::new(&png, PIXELS).into_drawing_area()).map_err(fail)
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Result<(), String> {
        let points = || self.series.iter().flat_map(|s| &s.points);
        let most = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::MIN_POSITIVE, f64::max);
        // Above the lines there is room for the legend.
        let (x_reach, y_end) =
            (self.form.reach(most(&mut points().map(|p| p.0))), 1.35 * most(&mut points().map(|p| p.1)));
        area.fill(&WHITE).map_err(|e| e.to_string())?;
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, ("sans-serif", 22))
            .margin(16)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(x_reach, 0.0..y_end)
            .map_err(|e| e.to_string())?;
        chart
            .configure_mesh()
            .x_desc(&self.x)
            .y_desc(&self.y)
            .y_label_formatter(&|y| plain(*y))
            .x_label_formatter(&|place| self.form.label(*place))
            .label_style(("sans-serif", 15))
            .axis_desc_style(("sans-serif", 17))
            .light_line_style(WHITE)
            .draw()
            .map_err(|e| e.to_string())?;
        let width = BARS_WIDTH / self.series.len() as f64;
        for (at, (series, colour)) in self.series.iter().zip(COLOURS.iter().cycle()).enumerate() {
            let drawn = if self.form == Form::Bars {
                let left = |x: f64| x - BARS_WIDTH / 2.0 + at as f64 * width;
                let bar = |&(x, y): &(f64, f64)| {
                    Rectangle::new([(left(x), 0.0), (left(x) + 0.9 * width, y)], colour.filled())
                };
                chart.draw_series(series.points.iter().map(bar))
            } else {
                let points = series.points.iter().map(|&(x, y)| (self.form.place(x), y));
                chart.draw_series(LineSeries::new(points, colour.stroke_width(2)).point_size(4))
            };
            drawn
                .map_err(|e| e.to_string())?
                .label(&series.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(3)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.3))
            .label_font(("sans-serif", 15))
            .draw()
            .map_err(|e| e.to_string())?;
        area.present().map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work_folder::WorkFolder;

    fn chart(points: Vec<(f64, f64)>) -> Chart {
        Chart {
            name: "test".into(),
            title: "A test".into(),
            x: "size, bytes".into(),
            y: "rate, Mpps".into(),
            form: Form::Lines,
            series: vec![Series { name: "a line".into(), points }],
        }
    }

    #[test]
    fn both_files_are_pictures_of_the_series() {
        let folder = WorkFolder::new().unwrap();
        chart(vec![(64.0, 20.0), (1518.0, 9.0)]).write(folder.path()).unwrap();
        let svg = fs::read_to_string(folder.path().join("test.svg")).unwrap();
        assert!(svg.contains("<svg") && svg.contains("a line") && svg.contains("rate, Mpps"), "{svg}");
        let png = fs::read(folder.path().join("test.png")).unwrap();
        assert_eq!(png[..8], *b"\x89PNG\r\n\x1a\n");
        assert!(png.len() > 5_000, "an empty picture compresses to less");
    }

    #[test]
    fn doubling_shows_the_numbers_themselves_and_bars_are_bars() {
        let folder = WorkFolder::new().unwrap();
        let points = vec![(1.0, 5.0), (64.0, 20.0), (512.0, 9.0)];
        Chart { form: Form::Doubling, ..chart(points) }.write(folder.path()).unwrap();
        let svg = || fs::read_to_string(folder.path().join("test.svg")).unwrap();
        let labels = |svg: &str, label: &str| svg.lines().any(|line| line.trim() == label);
        assert!(labels(&svg(), "512") && labels(&svg(), "64") && labels(&svg(), "1"), "{}", svg());
        let mut bars = Chart { form: Form::Bars, ..chart(vec![(1.0, 5.0), (2.0, 3.0), (4.0, 2.0)]) };
        bars.series.push(Series { name: "another".into(), points: vec![(1.0, 4.0)] });
        bars.write(folder.path()).unwrap();
        // The background and the four bars; the legend has a frame.
        assert!(svg().matches("<rect").count() >= 5 && labels(&svg(), "4"), "{}", svg());
    }

    #[test]
    fn nothing_is_drawn_of_nothing() {
        let folder = WorkFolder::new().unwrap();
        chart(Vec::new()).write(folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
