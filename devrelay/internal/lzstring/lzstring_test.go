package lzstring

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf16"
)

// vectors were made with the LZ-string library.
var vectors = []struct{ text, compressed string }{
	{"", "Q"},
	{"a", "IZA"},
	{"aa", "IbI"},
	{strings.Repeat("a", 100), "IY18ZXTt-0g"},
	{"abababab abababab ababababab", "IYI15ACCOt4kA"},
	{`[["getStats",null,{"bytesSent":1042}]]`, "NrBEHMFMBcGVoIbQM6gDQDsCuAbHaBvUAIwE9pJlZINpQAuARgAYAWAJgF8BdboA"},
	{"naïve ☃ 🎈", "HYQw9wbgpgBIwGQ0DwbgI-aA"},
}

func TestDecompress(t *testing.T) {
	for _, v := range vectors {
		if got, err := Decompress(v.compressed, 1000); err != nil || got != v.text {
			t.Errorf("%s: got %q, %v; want %q", v.compressed, got, err, v.text)
		}
	}
}

func TestDecompressTruncated(t *testing.T) {
	whole := vectors[5]
	for cut := range len(whole.compressed) {
		got, err := Decompress(whole.compressed[:cut], 1000)
		if !errors.Is(err, ErrTruncated) || !strings.HasPrefix(whole.text, got) {
			t.Errorf("%d characters: got %q, %v", cut, got, err)
		}
	}
	if got, err := Decompress(whole.compressed, 4); got != `[["g` || !errors.Is(err, ErrTruncated) {
		t.Errorf("limited: got %q, %v", got, err)
	}
}

func TestDecompressCorrupt(t *testing.T) {
	for _, src := range []string{"plain text", "[1]", "w", "IZ_"} {
		if got, err := Decompress(src, 1000); !errors.Is(err, ErrCorrupt) || got != "" {
			t.Errorf("%q: got %q, %v", src, got, err)
		}
	}
}

func FuzzDecompress(f *testing.F) {
	const limit = 1 << 12
	for _, v := range vectors {
		f.Add(v.compressed)
	}
	f.Fuzz(func(t *testing.T, src string) {
		got, err := Decompress(src, limit)
		if units := len(utf16.Encode([]rune(got))); units > limit {
			t.Errorf("%d units from %d characters, over the limit", units, len(src))
		}
		if errors.Is(err, ErrCorrupt) && got != "" {
			t.Errorf("corrupt, but gave %q", got)
		}
	})
}
