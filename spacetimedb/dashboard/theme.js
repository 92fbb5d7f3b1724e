// Before the first paint: the theme that was chosen here, if it is not the system's.
const chosen = localStorage.getItem('dashboard.theme');
if (chosen) document.documentElement.dataset.theme = chosen;
