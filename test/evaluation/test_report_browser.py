"""The pages in a real browser: everything shows, nothing is fetched, nothing sticks out."""

import json
import re
import shutil
import subprocess

import pytest
from support import report_data

from depth_ros.evaluation.report.comparison_page import write_comparison
from depth_ros.evaluation.report.report import write_report

CHROMIUM = shutil.which('chromium')
WIDTHS = (375, 1400)

# Added to a copy of the page: tells the frame's parent what the page looks like.
MEASURE = """<script>addEventListener('load', () => {
  const images = [...document.images];
  parent.postMessage({
    width: innerWidth, images: images.length, room: document.documentElement.clientWidth,
    wanted: document.documentElement.scrollWidth,
    broken: images.filter(image => !image.naturalWidth).map(image => image.alt),
    narrow: images.filter(image => image.currentSrc != image.src).length,
    loaded: performance.getEntriesByType('resource').map(entry => entry.name)
      .filter(name => !name.startsWith('data:'))}, '*');
});</script>"""

# No window is as narrow as a phone, but a frame can be.
FRAMES = """<!DOCTYPE html><title></title><script>
const seen = {};
addEventListener('message', ({data}) => {
  seen[data.width] = data; document.title = JSON.stringify(seen); });
</script>""" + ''.join(
    f'<iframe src="page.html" style="width: {width}px; border: 0"></iframe>' for width in WIDTHS
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None,
        reason='no chromium to look at the pages with (Debian: apt install chromium)',
    ),
]


@pytest.fixture(scope='module')
def pages(tmp_path_factory):
    """A report with everything, one without ground truth, and their comparison."""
    folder = tmp_path_factory.mktemp('pages')
    found = {}
    for name, truth in (('full', True), ('untrue', False)):
        result = report_data.write_result(
            folder / name, report_data.found(truth), report_data.frames(truth)
        )
        write_report(
            result,
            report_data.found(truth),
            report_data.frames(truth),
            report_data.evaluation(truth),
            report_data.contracts(),
        )
        found[name] = result / 'report.html'
    write_comparison(folder / 'both', [folder / 'full', folder / 'untrue'])
    return {**found, 'comparison': folder / 'both' / 'comparison.html'}


def look(page, folder) -> dict[str, dict]:
    """What the browser says of a page, by its width."""
    (folder / 'page.html').write_text(page.read_text().replace('</body>', f'{MEASURE}</body>'))
    frames = folder / 'frames.html'
    frames.write_text(FRAMES)
    dom = subprocess.run(
        [
            CHROMIUM,
            '--headless',
            '--no-sandbox',
            '--disable-gpu',
            '--disable-quic',
            '--no-first-run',
            '--disable-background-networking',
            '--disable-component-update',
            '--disable-sync',
            f'--user-data-dir={folder / "profile"}',
            '--window-size=1500,900',
            '--virtual-time-budget=5000',
            '--dump-dom',
            frames.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    return json.loads(re.search(r'<title>(.*?)</title>', dom)[1])


@pytest.mark.parametrize('name, images', [('full', 24), ('untrue', 15), ('comparison', 3)])
def test_page_shows_everything_and_fetches_nothing(pages, tmp_path, name, images):
    seen = look(pages[name], tmp_path)
    assert seen.keys() == {str(width) for width in WIDTHS}
    for width in WIDTHS:
        found = seen[str(width)]
        assert found['wanted'] <= found['room']
        assert found['images'] == images and found['broken'] == []
        assert found['loaded'] == []
        assert (found['narrow'] > 0) == (width == 375)  # figures are drawn for either
