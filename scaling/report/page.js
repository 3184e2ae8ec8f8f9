// Draw every figure; its data lies in its place as JSON.
for (const element of document.querySelectorAll(".plot")) {
  const { data, layout } = JSON.parse(element.querySelector("script").textContent);
  element.replaceChildren();
  Plotly.newPlot(element, data, layout, { responsive: true, displayModeBar: false });
}
