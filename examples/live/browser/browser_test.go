package browser

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var screenshots = flag.String("screenshots", "", "folder for new pictures of the page")

// patience ends the wait for what has to happen. It is long because the machine may be busy.
const patience = 2 * time.Minute

// program is examples/live, built once.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "nearcache-live")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "live")
	command := exec.Command("go", "build", "-o", path, "./live")
	command.Dir = filepath.Join("..", "..")
	if output, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build examples/live: %w\n%s", err, output)
	}
	return path, nil
})

var address = regexp.MustCompile(`(?m)^live: (http://\S+)$`)

// startProgram runs examples/live until the test ends, and returns where its page is.
func startProgram(t *testing.T, arguments ...string) (url string) {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(path, append([]string{"-listen", "127.0.0.1:0"}, arguments...)...)
	command.Env = append(os.Environ(), "REDIS_ADDR=", "EXAMPLE_DURATION=")
	command.Stderr = t.Output()
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	found := make(chan string, 1)
	read := make(chan struct{})
	go func() {
		defer close(read)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if match := address.FindStringSubmatch(lines.Text()); match != nil {
				found <- match[1]
			}
		}
		close(found)
	}()
	t.Cleanup(func() {
		if err := command.Process.Signal(os.Interrupt); err != nil {
			t.Errorf("interrupt the program: %v", err)
		}
		<-read
		if err := command.Wait(); err != nil {
			t.Errorf("the program: %v", err)
		}
	})
	select {
	case url, ok := <-found:
		if ok {
			return url
		}
		t.Fatal("the program has ended")
	case <-time.After(patience):
		t.Fatal("the program does not say where its page is")
	}
	panic("unreachable")
}

// A tab shows the page.
type tab struct {
	t   *testing.T
	ctx context.Context
}

// openPage opens a page in a browser of its own and waits until it shows something. Whatever the page reports as an error fails the test.
func openPage(t *testing.T, url, scheme string, width, height int64) *tab {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.NoSandbox, // as root, as in a container, there is none
		chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.WSURLReadTimeout(patience),
	)
	allocator, endBrowser := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, endTab := chromedp.NewContext(allocator)
	t.Cleanup(func() {
		if err := chromedp.Cancel(ctx); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("close the browser: %v", err)
		}
		endTab()
		endBrowser()
	})
	if err := chromedp.Listen(ctx, func(event any) {
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			what := e.ExceptionDetails.Text
			if e.ExceptionDetails.Exception != nil {
				what += " " + e.ExceptionDetails.Exception.Description
			}
			t.Errorf("the page: %s", what)
		case *log.EventEntryAdded:
			// The stream of events ends with the program, and a request that is refused is what a test may be about.
			if e.Entry.Level == log.EntryLevelError && e.Entry.Source != log.EntrySourceNetwork {
				t.Errorf("the page: %s %s", e.Entry.Text, e.Entry.URL)
			}
		}
	}); err != nil {
		t.Fatalf("a headless Chromium cannot be started: %v: install one with scripts/install chromium", err)
	}
	b := &tab{t: t, ctx: ctx}
	features := []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}
	b.run(
		chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
			_, err := cdp.Call(ctx, target, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: features})
			return err
		}),
		chromedp.EmulateViewport(width, height, chromedp.EmulateScale(1)),
		chromedp.Navigate(url),
		chromedp.WaitVisible(`body[data-ready="yes"]`),
	)
	return b
}

func (b *tab) run(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		b.t.Fatal(err)
	}
}

// value evaluates an expression in the page.
func value[V any](b *tab, expression string) V {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[V](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatal(err)
	}
	return v
}

// await waits until the page shows something.
func (b *tab) await(what, expression string) {
	b.t.Helper()
	deadline := time.Now().Add(patience)
	for !value[bool](b, expression) {
		if time.Now().After(deadline) {
			b.t.Fatalf("the page does not show: %s\n%s", what, value[string](b, "document.body.innerText"))
		}
		<-time.After(20 * time.Millisecond)
	}
}

func (b *tab) click(selector string) {
	b.t.Helper()
	b.run(chromedp.Click(selector))
}

// text is an expression for what an element says.
func text(selector string) string {
	return fmt.Sprintf("document.querySelector(%q).textContent", selector)
}

// all is an expression: every element that the selector finds fulfils the condition, which is about e, and there are some.
func all(selector, condition string) string {
	return fmt.Sprintf("(() => { const found = [...document.querySelectorAll(%q)]; return found.length > 0 && found.every((e) => %s); })()", selector, condition)
}

// full waits until every node holds every item.
func (b *tab) full() {
	b.t.Helper()
	b.await("all nodes hold everything", all(".node .cell", `e.dataset.state === "held"`))
}

func TestButtons(t *testing.T) {
	b := openPage(t, startProgram(t, "-writes", "0"), "light", 1280, 1000)
	b.full()
	if got := value[int](b, `document.querySelectorAll(".node").length * 100 + document.querySelectorAll("#stored .cell").length`); got != 412 {
		t.Fatalf("the page shows %d nodes and %d items", got/100, got%100)
	}

	t.Run("write from outside", func(t *testing.T) {
		b := &tab{t, b.ctx}
		before := value[string](b, `JSON.stringify([...document.querySelectorAll("#stored .cell i")].map((e) => e.textContent))`)
		b.click("#write")
		b.await("the journal tells of it", text("#journal")+`.includes("Outside wrote")`)
		b.await("all four have been told", text("#journal li:first-child span")+`.includes("pushed out of the memory of")`+
			` && [..."ABCD"].every((n) => `+text("#journal li:first-child span")+`.split("memory of")[1].includes(n))`)
		b.await("Redis holds another version", fmt.Sprintf(`JSON.stringify([...document.querySelectorAll("#stored .cell i")].map((e) => e.textContent)) !== %q`, before))
		// Each node comes to hold the version that Redis holds.
		b.await("all nodes hold the new version", all(".node .cell", `e.dataset.state === "held" && e.children[1].textContent === document.querySelector("#stored [data-key=" + e.dataset.key + "] i").textContent`))
		b.await("each push is seen", `[..."ABCD"].every((n) => [...document.querySelectorAll("#node-" + n + " .cell")].some((e) => Number(e.dataset.pushes) > 0))`)
	})

	t.Run("cut a link", func(t *testing.T) {
		b := &tab{t, b.ctx}
		b.full()
		b.click("#cut-B")
		b.await("the link is cut", text("#node-B .pill")+` === "cut off" && document.querySelector("#cut-B").getAttribute("aria-pressed") === "true"`)
		b.await("no memory is served", all("#node-B .cell", `e.dataset.state === "bypass"`))
		b.await("it reads from Redis", text("#node-B .recent")+` === "0 %"`)
		b.await("what it knows is older than the bound", `document.querySelector("#node-B .age").classList.contains("over")`)
		for _, name := range "ACD" {
			if got := value[string](b, text("#node-"+string(name)+" .pill")); got != "live" {
				t.Errorf("node %c is %q", name, got)
			}
		}
		// The cut node reads what is written, because it asks Redis.
		b.click("#write")
		b.await("the cut node reads the new version", all("#node-B .cell", `e.children[1].textContent === document.querySelector("#stored [data-key=" + e.dataset.key + "] i").textContent`))
		b.click("#cut-B")
		b.await("the link is live again", text("#node-B .pill")+` === "live" && Number(`+text("#node-B .reconnects")+`) === 1`)
		b.full()
	})

	t.Run("freeze the server", func(t *testing.T) {
		b := &tab{t, b.ctx}
		b.full()
		b.click("#freeze")
		b.await("Redis is frozen", text("#redis-pill")+` === "frozen" && document.querySelector("#freeze").getAttribute("aria-pressed") === "true"`)
		b.await("no node is certain any more", all(".node .age", `e.classList.contains("over")`))
		b.await("no memory is served", all(".node .cell", `e.dataset.state === "bypass" || e.dataset.state === "empty"`))
		b.click("#freeze")
		b.await("Redis runs", text("#redis-pill")+` === "running"`)
		b.await("all links are live", all(".node .pill", `e.textContent === "live"`))
		b.full()
	})

	t.Run("flush", func(t *testing.T) {
		b := &tab{t, b.ctx}
		b.full()
		// A node reads again at once, so what it did not hold for a moment is seen by an observer and not by looking now and then.
		value[bool](b, `window.emptied = new Set();
			new MutationObserver((changes) => { for (const c of changes) { if (c.target.dataset.state === "empty") { emptied.add(c.target.closest(".node, #stored").id); } } })
				.observe(document.body, { subtree: true, attributes: true, attributeFilter: ["data-state"] }); true`)
		b.click("#flush")
		b.await("the journal tells of it", text("#journal li:first-child span")+`.startsWith("FLUSHALL")`)
		b.await("every memory and Redis have been empty", `["node-A", "node-B", "node-C", "node-D", "stored"].every((id) => emptied.has(id))`)
		b.full()
	})
}

// TestKeyboard presses the buttons without a mouse, in the order in which they are on the page.
func TestKeyboard(t *testing.T) {
	b := openPage(t, startProgram(t, "-writes", "0"), "light", 1280, 1000)
	b.full()
	focused := func() string { return value[string](b, "document.activeElement.id") }
	for _, want := range []string{"write", "flush", "freeze", "cut-A", "cut-B", "cut-C", "cut-D", "journal"} {
		b.run(chromedp.KeyEvent(kb.Tab))
		if got := focused(); got != want {
			t.Fatalf("the focus is on %q, want %q", got, want)
		}
		if outline := value[string](b, "getComputedStyle(document.activeElement).outlineStyle"); outline != "solid" {
			t.Errorf("that the focus is on %s cannot be seen: %q", want, outline)
		}
	}
	b.run(chromedp.Focus("#cut-C"), chromedp.KeyEvent(kb.Enter))
	b.await("the link is cut", text("#node-C .pill")+` === "cut off"`)
	if label := value[string](b, `document.querySelector("#cut-C").getAttribute("aria-label")`); label != "Mend the link of node C" {
		t.Errorf("the button is called %q", label)
	}
	b.await("it is said aloud", text("#announce")+`.includes("link of node C is cut")`)
	b.run(chromedp.KeyEvent(" "))
	b.await("the link is mended", text("#node-C .pill")+` === "live"`)
}

// contrast lists the texts that are hard to read by WCAG 2.2, level AA: 4.5 to 1. What is behind a text is the nearest background that is not
// transparent; of one with stripes, both colours count.
const contrast = `(() => {
	const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
	const rgba = (colour) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
	const luminance = (colour) => { const [r, g, b] = rgba(colour).map((v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
	const behind = (e) => {
		for (; e; e = e.parentElement) {
			const style = getComputedStyle(e);
			const stripes = style.backgroundImage.match(/rgba?\([^)]*\)/g);
			if (stripes) { return stripes; }
			if (rgba(style.backgroundColor)[3] === 255) { return [style.backgroundColor]; }
		}
		return ["white"];
	};
	const poor = new Set();
	const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	while (texts.nextNode()) {
		const e = texts.currentNode.parentElement;
		if (!texts.currentNode.textContent.trim() || e.closest("noscript, .quiet, svg, template") || e.getClientRects().length === 0) { continue; }
		for (const colour of behind(e)) {
			const [a, b] = [luminance(getComputedStyle(e).color), luminance(colour)];
			const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
			if (ratio < 4.5) { poor.add(texts.currentNode.textContent.trim() + " " + ratio.toFixed(2) + " " + e.className); }
		}
	}
	return [...poor];
})()`

func TestReadability(t *testing.T) {
	url := startProgram(t, "-writes", "0")
	for _, scheme := range []string{"light", "dark"} {
		t.Run(scheme, func(t *testing.T) {
			b := openPage(t, url, scheme, 1280, 1000)
			b.full()
			poor := func(when string) {
				t.Helper()
				for _, text := range value[[]string](b, contrast) {
					t.Errorf("%s: hard to read: %s", when, text)
				}
			}
			poor("all is well")
			b.click("#cut-A")
			b.await("the link is cut", all("#node-A .cell", `e.dataset.state === "bypass"`))
			b.click("#freeze")
			b.await("no node is certain", all(".node .age", `e.classList.contains("over")`))
			poor("cut and frozen")
			b.click("#freeze")
			b.click("#cut-A")
			b.await("all is well again", all(".node .pill", `e.textContent === "live"`))

			for _, width := range []int64{1280, 768, 390} {
				b.run(chromedp.EmulateViewport(width, 900, chromedp.EmulateScale(1)))
				if over := value[int](b, "document.documentElement.scrollWidth - document.documentElement.clientWidth"); over > 0 {
					t.Errorf("at %d pixels the page is %d too wide", width, over)
				}
				clipped := value[[]string](b, `[...document.querySelectorAll("button, .pill, .cell b, .cell i, dd")].filter((e) => e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0).map((e) => e.textContent)`)
				if len(clipped) > 0 {
					t.Errorf("at %d pixels these do not fit: %q", width, clipped)
				}
			}
		})
	}
}

// TestScreenshots takes the pictures of the documentation: a fleet at work, one link cut.
func TestScreenshots(t *testing.T) {
	folder := *screenshots
	if folder == "" {
		folder = t.TempDir()
	}
	url := startProgram(t, "-writes", "700ms")
	for _, scheme := range []string{"light", "dark"} {
		b := openPage(t, url, scheme, 1280, 985)
		b.full()
		b.click("#cut-C")
		b.await("the curve has risen", `document.querySelector("#node-C .age").classList.contains("over") && `+text("#node-C .recent")+` === "0 %"`)
		b.click("#write")
		b.await("a push is on its way", `document.querySelectorAll(".pulse").length > 2 && document.querySelectorAll("#journal li").length > 7`)
		picture, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
		if err != nil {
			t.Fatal(err)
		}
		b.click("#cut-C")
		reduced, err := reduce(picture)
		if err != nil {
			t.Fatal(err)
		}
		if len(reduced) < 10_000 || len(reduced) > len(picture) {
			t.Errorf("the picture has %d bytes, of %d", len(reduced), len(picture))
		}
		if err := os.WriteFile(filepath.Join(folder, "live-"+scheme+".png"), reduced, 0o644); err != nil { //nolint:gosec // for everybody
			t.Error(err)
		}
	}
}

// reduce writes a picture with 256 colours, those that it has most of before those that look like another: a page has few, and so it takes a
// third of the space.
func reduce(picture []byte) ([]byte, error) {
	full, err := png.Decode(bytes.NewReader(picture))
	if err != nil {
		return nil, err
	}
	area := full.Bounds()
	counts := make(map[color.Color]int)
	for y := area.Min.Y; y < area.Max.Y; y++ {
		for x := area.Min.X; x < area.Max.X; x++ {
			counts[full.At(x, y)]++
		}
	}
	colours := slices.SortedFunc(maps.Keys(counts), func(a, b color.Color) int { return cmp.Compare(counts[b], counts[a]) })
	var palette color.Palette
	for _, c := range colours {
		if len(palette) < 256 && !slices.ContainsFunc(palette, func(other color.Color) bool { return alike(c, other) }) {
			palette = append(palette, c)
		}
	}
	// What room is left is for fine shades, of which shadows are made.
	for _, c := range colours {
		if len(palette) < 256 && !slices.Contains(palette, c) {
			palette = append(palette, c)
		}
	}
	few := image.NewPaletted(area, palette)
	nearest := make(map[color.Color]uint8, len(colours))
	for _, c := range colours {
		nearest[c] = uint8(few.Palette.Index(c)) //nolint:gosec // below 256
	}
	for y := area.Min.Y; y < area.Max.Y; y++ {
		for x := area.Min.X; x < area.Max.X; x++ {
			few.SetColorIndex(x, y, nearest[full.At(x, y)])
		}
	}
	var reduced bytes.Buffer
	err = (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&reduced, few)
	return reduced.Bytes(), err
}

func alike(a, b color.Color) bool {
	const near = 12 << 8
	ar, ag, ab, _ := a.RGBA()
	br, bg, bb, _ := b.RGBA()
	apart := func(x, y uint32) uint32 { return max(x, y) - min(x, y) }
	return apart(ar, br) < near && apart(ag, bg) < near && apart(ab, bb) < near
}

// TestRequests asks the program what no button asks.
func TestRequests(t *testing.T) {
	b := openPage(t, startProgram(t, "-writes", "0"), "light", 800, 600)
	for request, want := range map[string]int{
		"/nodes/E/cut":          404,
		"/nodes/A/write?key=XX": 400,
		"/nodes/A/write":        204,
		"/write?key=SIN":        204,
		"/thaw":                 204,
	} {
		quoted, err := json.Marshal(request)
		if err != nil {
			t.Fatal(err)
		}
		got := value[int](b, "fetch("+string(quoted)+`, { method: "POST" }).then((r) => r.status)`)
		if got != want {
			t.Errorf("POST %s: %d, want %d", request, got, want)
		}
	}
}
