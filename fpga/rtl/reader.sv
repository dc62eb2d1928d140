// The AXI4 read master. Requests of four clients, a burst each, are served in the order of
// their numbers (0 first); data come in the order of the requests, with the client's number and
// the tag that it gave.
//
// `halt` stops new requests; what is on its way is awaited and dropped, until `quiet`.
module reader #(
    parameter int unsigned OPEN = 32  // bursts on their way, at most
) (
    input  logic         clk,
    input  logic         rst,
    input  logic         halt,
    output logic         quiet,
    output logic         error,      // a cycle: an answer was not OKAY
    output logic         waiting,    // the bus owes a handshake, and there is none in this cycle

    input  logic [3:0]   request,
    input  logic [159:0] request_address,
    input  logic [19:0]  request_length,  // beats, 1 to 16
    input  logic [3:0]   request_tag,
    output logic [3:0]   grant,

    output logic [3:0]   valid,
    output logic         tag,
    output logic [127:0] data,
    input  logic         ready,      // of client 3; the others always have room for what they asked

    output logic         m_axi_arvalid,
    input  logic         m_axi_arready,
    output logic [39:0]  m_axi_araddr,
    output logic [7:0]   m_axi_arlen,
    input  logic         m_axi_rvalid,
    output logic         m_axi_rready,
    input  logic [127:0] m_axi_rdata,
    input  logic [1:0]   m_axi_rresp,
    input  logic         m_axi_rlast
);
  localparam int unsigned BITS = $clog2(OPEN);

  logic [1:0] chosen, owner;
  logic free, take, beat, last;
  logic owner_valid;
  logic [BITS:0] open;

  assign chosen = request[0] ? 2'd0 : request[1] ? 2'd1 : request[2] ? 2'd2 : 2'd3;
  // A cycle late: one burst more may be asked for than is said here.
  always_ff @(posedge clk) free <= !halt && open < (BITS + 1)'(OPEN - 2);
  assign take = request != '0 && free && (!m_axi_arvalid || m_axi_arready);
  assign grant = take ? 4'd1 << chosen : 4'd0;

  always_ff @(posedge clk) begin
    if (rst) m_axi_arvalid <= 1'b0;
    else if (take) m_axi_arvalid <= 1'b1;
    else if (m_axi_arready) m_axi_arvalid <= 1'b0;
  end
  always_ff @(posedge clk) begin
    if (take) begin
      m_axi_araddr <= request_address[40*chosen+:40];
      m_axi_arlen <= {3'd0, request_length[5*chosen+:5] - 5'd1};
    end
  end

  // Whose the data are, burst by burst.
  logic owner_tag;
  fifo #(.WIDTH(3), .DEPTH(OPEN)) owners (
      .clk,
      .rst,
      .push(take),
      .in({request_tag[chosen], chosen}),
      .valid(owner_valid),
      .out({owner_tag, owner}),
      .pop(last),
      .count(open)
  );

  assign m_axi_rready = owner_valid && (halt || owner != 2'd3 || ready);
  assign beat = m_axi_rvalid && m_axi_rready;
  assign last = beat && m_axi_rlast;
  assign quiet = !m_axi_arvalid && open == '0;
  assign waiting = (m_axi_arvalid || open != '0) && !(m_axi_arvalid && m_axi_arready) && !beat;

  always_ff @(posedge clk) begin
    valid <= beat && !halt && !rst ? 4'd1 << owner : 4'd0;
    error <= beat && !rst && m_axi_rresp != 2'd0;
    tag   <= owner_tag;
    data  <= m_axi_rdata;
  end
endmodule
