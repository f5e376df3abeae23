package devrelay

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf16"
)

// lzVectors were made with LZ-string itself.
var lzVectors = []struct{ text, compressed string }{
	{"", "Q"},
	{"a", "IZA"},
	{"aa", "IbI"},
	{strings.Repeat("a", 100), "IY18ZXTt-0g"},
	{"abababab abababab ababababab", "IYI15ACCOt4kA"},
	{`[["getStats",null,{"bytesSent":1042}]]`, "NrBEHMFMBcGVoIbQM6gDQDsCuAbHaBvUAIwE9pJlZINpQAuARgAYAWAJgF8BdboA"},
	{"naïve ☃ 🎈", "HYQw9wbgpgBIwGQ0DwbgI-aA"},
}

func TestDecompressLZ(t *testing.T) {
	for _, v := range lzVectors {
		if got, err := decompressLZ(v.compressed, 1000); err != nil || got != v.text {
			t.Errorf("%s: got %q, %v; want %q", v.compressed, got, err, v.text)
		}
	}
}

func TestDecompressLZTruncated(t *testing.T) {
	whole := lzVectors[5]
	for cut := range len(whole.compressed) {
		got, err := decompressLZ(whole.compressed[:cut], 1000)
		if !errors.Is(err, errLZTruncated) || !strings.HasPrefix(whole.text, got) {
			t.Errorf("%d characters: got %q, %v", cut, got, err)
		}
	}
	if got, err := decompressLZ(whole.compressed, 4); got != `[["g` || !errors.Is(err, errLZTruncated) {
		t.Errorf("limited: got %q, %v", got, err)
	}
}

func TestDecompressLZCorrupt(t *testing.T) {
	for _, src := range []string{"plain text", "[1]", "w", "IZ_"} {
		if got, err := decompressLZ(src, 1000); !errors.Is(err, errLZCorrupt) || got != "" {
			t.Errorf("%q: got %q, %v", src, got, err)
		}
	}
}

func FuzzDecompressLZ(f *testing.F) {
	const limit = 1 << 12
	for _, v := range lzVectors {
		f.Add(v.compressed)
	}
	f.Fuzz(func(t *testing.T, src string) {
		got, err := decompressLZ(src, limit)
		if units := len(utf16.Encode([]rune(got))); units > limit {
			t.Errorf("%d units from %d characters, over the limit", units, len(src))
		}
		if errors.Is(err, errLZCorrupt) && got != "" {
			t.Errorf("corrupt, but gave %q", got)
		}
	})
}
