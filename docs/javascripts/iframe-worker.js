// Browsers refuse a worker to a page that is opened from a folder. There, the search gets an iframe in its place,
// which it knows by this name; what the theme would take otherwise is a script from outside.
if (location.protocol === "file:") {
  window.Worker = window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.inside = frame.contentWindow;
      this.waiting = [];
      this.inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      const script = this.inside.document.createElement("script");
      script.src = url;
      script.onload = () => {
        this.loaded = true;
        this.waiting.forEach((data) => this.postMessage(data));
      };
      this.inside.document.head.append(script);
    }

    postMessage(data) {
      if (this.loaded) this.inside.dispatchEvent(new MessageEvent("message", { data }));
      else this.waiting.push(data);
    }
  };
}
