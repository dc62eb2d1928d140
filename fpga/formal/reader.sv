// The read master: requests reach the bus as they were granted, under the rules of AXI, and data
// reach the client that asked for them, with its tag.
module reader_properties (
    input logic         clk,
    input logic         rst,
    input logic         halt,
    input logic [3:0]   request,
    input logic [159:0] request_address,
    input logic [19:0]  request_length,
    input logic [3:0]   request_tag,
    input logic         ready,
    input logic         m_axi_arready,
    input logic         m_axi_rvalid,
    input logic [127:0] m_axi_rdata,
    input logic [1:0]   m_axi_rresp,
    input logic         m_axi_rlast
);
  localparam int unsigned OPEN = 4;

  logic quiet, error, waiting, tag, m_axi_arvalid, m_axi_rready;
  logic [3:0] grant, valid;
  logic [127:0] data;
  logic [39:0] m_axi_araddr;
  logic [7:0] m_axi_arlen;
  reader #(.OPEN(OPEN)) dut (
      .clk, .rst, .halt, .quiet, .error, .waiting, .request, .request_address, .request_length,
      .request_tag, .grant, .valid, .tag, .data, .ready, .m_axi_arvalid, .m_axi_arready,
      .m_axi_araddr, .m_axi_arlen, .m_axi_rvalid, .m_axi_rready, .m_axi_rdata, .m_axi_rresp,
      .m_axi_rlast
  );

  // Any one of the bursts: who asked for it, and how much of it is still to come.
  (* anyconst *) logic [7:0] watched;
  logic [7:0] granted, addressed, answered;
  logic [3:0] client;
  logic client_tag;
  logic [39:0] address;
  logic [4:0] length, left;
  logic [1:0] chosen;
  assign chosen = grant[0] ? 2'd0 : grant[1] ? 2'd1 : grant[2] ? 2'd2 : 2'd3;

  logic begun, ar_waited, r_waited, halted, came, failed, moves;
  assign moves = (m_axi_arvalid && m_axi_arready) || (m_axi_rvalid && m_axi_rready);
  logic [39:0] araddr_before;
  logic [7:0] arlen_before;
  logic [127:0] rdata_before;
  logic [2:0] rest_before;
  initial begun = 1'b0;
  always_ff @(posedge clk) begin
    begun <= 1'b1;
    if (!begun) assume (rst);
    if (rst) begin
      granted <= '0;
      addressed <= '0;
      answered <= '0;
      ar_waited <= 1'b0;
      r_waited <= 1'b0;
      came <= 1'b0;
      failed <= 1'b0;
      halted <= halt;
      assume (request == '0);
    end else if (begun) begin
      // The memory: answers what it was asked for, in order, and keeps what it shows.
      if (m_axi_rvalid) assume (answered != addressed);
      if (m_axi_rvalid && answered == watched) assume (m_axi_rlast == (left == 5'd1));
      if (r_waited) assume (m_axi_rvalid && m_axi_rdata == rdata_before
                            && {m_axi_rresp, m_axi_rlast} == rest_before);
      r_waited <= m_axi_rvalid && !m_axi_rready;
      rdata_before <= m_axi_rdata;
      rest_before <= {m_axi_rresp, m_axi_rlast};
      for (int i = 0; i < 4; i++) if (request[i])
          assume (request_length[5*i+:5] != '0 && request_length[5*i+:5] <= 5'd16);

      granted <= granted + 8'(grant != '0);
      addressed <= addressed + 8'(m_axi_arvalid && m_axi_arready);
      answered <= answered + 8'(m_axi_rvalid && m_axi_rready && m_axi_rlast);
      if (grant != '0 && granted == watched) begin
        client <= grant;
        client_tag <= request_tag[chosen];
        address <= request_address[40*chosen+:40];
        length <= request_length[5*chosen+:5];
        left <= request_length[5*chosen+:5];
      end

      // Grants: of what is asked for, one at a time, and none while halted.
      assert ((grant & ~request) == '0 && (grant & (grant - 4'd1)) == '0);
      halted <= halt;
      if (halt && halted) assert (grant == '0);
      // The bus: valid waits for ready, unchanged; as many bursts as are allowed.
      if (ar_waited)
        assert (m_axi_arvalid && m_axi_araddr == araddr_before && m_axi_arlen == arlen_before);
      ar_waited <= m_axi_arvalid && !m_axi_arready;
      araddr_before <= m_axi_araddr;
      arlen_before <= m_axi_arlen;
      if (m_axi_arvalid && addressed == watched)
        assert (m_axi_araddr == address && {1'b0, m_axi_arlen} + 9'd1 == 9'(length));
      assert (granted - answered <= 8'(OPEN - 1));
      assert (granted - addressed == 8'(m_axi_arvalid));
      assert (quiet == (granted == answered));
      // The bus owes something, and nothing moves.
      assert (waiting == (granted != answered && !moves));
      failed <= m_axi_rvalid && m_axi_rready && m_axi_rresp != '0;
      assert (error == failed);
      // The data.
      came <= 1'b0;
      if (m_axi_rvalid && m_axi_rready && answered == watched) begin
        left <= left - 5'd1;
        came <= !halt;
      end
      if (came) assert (valid == client && tag == client_tag && data == rdata_before);
      assert ((valid & (valid - 4'd1)) == '0);
      if (halted) assert (valid == '0);
    end
  end
endmodule
