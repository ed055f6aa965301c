// The page again every five seconds, unless it is hidden or somebody is about to press a button.
setInterval(async () => {
  const content = document.getElementById("content");
  if (document.hidden || content.querySelector("details[open], :focus")) return;
  try {
    const answer = await fetch(location.href, {headers: {"Accept": "text/html"}});
    if (!answer.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    const scrolled = [...content.querySelectorAll(".scroll")].map(box => box.scrollLeft);
    content.replaceChildren(...fresh.getElementById("content").childNodes);
    content.querySelectorAll(".scroll").forEach((box, n) => { box.scrollLeft = scrolled[n] ?? 0; });
  } catch { /* the server is away: what is shown stays */ }
}, 5000);
