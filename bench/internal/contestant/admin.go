package contestant

import (
	"context"
	"fmt"
	"io"
	"net/http"
)

// Get asks a Caddy's admin endpoint for path and has read take the response's body. A
// status other than 200 is an error.
func (p *Process) Get(ctx context.Context, path string, read func(io.Reader) error) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.Admin+path, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, response.Status)
	}
	return read(response.Body)
}

// Discard reads to the end and keeps nothing. It is for Get.
func Discard(r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return err
}
