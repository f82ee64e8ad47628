// Search for a site that is opened from the disk.  Browsers start no worker for a page of the disk, so there an invisible
// frame takes its place.  The name of this file is the one by which the plugin "offline" knows it.
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      document.body.appendChild(this.frame)
      this.window = this.frame.contentWindow
      this.window.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
      this.window.importScripts = (...urls) =>
        urls.reduce((before, each) => before.then(() => this.load(each)), Promise.resolve())
      this.ready = this.load(url)
    }

    load(url) {
      return new Promise(resolve => {
        const script = this.window.document.createElement("script")
        script.src = url
        script.onload = resolve
        this.window.document.body.appendChild(script)
      })
    }

    postMessage(data) {
      this.ready.then(() => this.window.dispatchEvent(new MessageEvent("message", { data })))
    }
  }
  window.Worker = window.IFrameWorker
}
